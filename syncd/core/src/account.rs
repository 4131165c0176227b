//! Makes what an account's owner decides into log entries and sealed sets: create, add, revoke, rename, configure, join.
//!
//! Takes the verified [`Account`] and the keys at hand, gives a [`Change`]: entries to append at the relay, and what
//! the account and its secrets are once the relay has taken them. Appending, storing and telling peers are left to
//! the daemon; what entries are valid is left to [`hearth_schemas::log`].

use std::collections::BTreeMap;

use hearth_schemas::ids::DeviceId;
use hearth_schemas::keys::config::{Config, ConfigError};
use hearth_schemas::keys::epoch::{self, EpochError, Recipient};
use hearth_schemas::keys::name::{self, NameError};
use hearth_schemas::keys::{AccountSecret, DeviceKeys, EpochKey, Phrase, Root, Secret};
use hearth_schemas::log::{Account, Body, Caps, Epoch, LogError, PublicKeys, Signer};
use hearth_schemas::pairing::WelcomeSecrets;
use hearth_schemas::relay::Head;
use hearth_schemas::seal::Entropy;

/// The secrets of an account that its devices share.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    /// The account secret.
    pub account: AccountSecret,
    /// The keys of the epochs that this device knows, by number.
    pub epochs: BTreeMap<u32, EpochKey>,
}

/// Something to be appended at the relay, and what follows once it is.
#[derive(Clone)]
pub struct Change {
    /// The head that the entries continue; `None` for a new account.
    pub after: Option<Head>,
    /// Exact bytes of the entries.
    pub entries: Vec<Vec<u8>>,
    /// Sealed epoch sets and configurations that the entries commit to.
    pub blobs: Vec<Vec<u8>>,
    /// The account, entries included.
    pub account: Account,
    /// The secrets, epochs of the entries included.
    pub secrets: Secrets,
}

/// A device that is to be added.
#[derive(Clone, Copy)]
pub struct Newcomer<'a> {
    /// Its public keys.
    pub keys: &'a PublicKeys,
    /// The name it would like.
    pub wish: &'a str,
    /// What it may sign.
    pub caps: Caps,
}

/// Why a change to the account cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The text cannot be a device's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Another device has the name.
    #[error("another device is called that")]
    NameTaken,
    /// No such device, or it was revoked.
    #[error("no device of the account is called that")]
    NoSuchDevice,
    /// The relays cannot be the account's.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log does not allow it.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A sealed set gives no keys.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// The phrase belongs to another account.
    #[error("this is the recovery phrase of another account")]
    OtherPhrase,
    /// The newest epoch's sealed set is missing.
    #[error("the sealed keys of the account are missing")]
    NoEpoch,
    /// A sealed set holds an account secret other than the one known.
    #[error("the sealed keys belong to another account secret")]
    OtherSecret,
}

/// Creates an account with one device.
pub fn create(
    phrase: &Phrase,
    keys: &DeviceKeys,
    wish: &str,
    now_ms: u64,
    entropy: Entropy<'_>,
) -> Result<Change, AccountError> {
    let root = phrase.root();
    let genesis = Account::genesis_entry(root.sign_public(), root.kem_public(), now_ms).sign(&root.sign);
    let account = Account::verify(root.account(), std::slice::from_ref(&genesis))?;
    let secrets = Secrets { account: AccountSecret(Secret::random(&mut *entropy)), epochs: BTreeMap::new() };
    let mut draft = Draft::new(&account, &secrets, Author::Root(&root), now_ms);
    draft.add_device(&Newcomer { keys: &keys.public(), wish, caps: Caps::ALL }, &mut *entropy)?;
    draft.new_epoch(entropy)?;
    let mut change = draft.finish(None);
    change.entries.insert(0, genesis);
    Ok(change)
}

/// Adds a device in the name of this one. Its wish becomes its name, made into a valid one that no other device has.
pub fn add_device(
    account: &Account,
    secrets: &Secrets,
    by: &DeviceKeys,
    newcomer: &Newcomer<'_>,
    now_ms: u64,
    entropy: Entropy<'_>,
) -> Result<Change, AccountError> {
    let mut draft = Draft::new(account, secrets, Author::Device(by), now_ms);
    draft.add_device(newcomer, entropy)?;
    Ok(draft.finish(Some(account.head)))
}

/// Adds this device by the recovery phrase. `sets` are the sealed sets of the account's epochs, of which the newest
/// must be among them; the device knows the keys of those that are.
pub fn join_by_phrase(
    account: &Account,
    sets: &[Vec<u8>],
    phrase: &Phrase,
    keys: &DeviceKeys,
    wish: &str,
    now_ms: u64,
    entropy: Entropy<'_>,
) -> Result<Change, AccountError> {
    let root = phrase.root();
    if root.account() != account.id {
        return Err(AccountError::OtherPhrase);
    }
    let secrets = Secrets::open_all(account, sets, Recipient::Root(&root.kem))?;
    let mut draft = Draft::new(account, &secrets, Author::Root(&root), now_ms);
    draft.add_device(&Newcomer { keys: &keys.public(), wish, caps: Caps::ALL }, entropy)?;
    Ok(draft.finish(Some(account.head)))
}

/// Shuts a device out, and begins an epoch whose key it does not get. A device that revokes itself cannot begin
/// that epoch; another does, seeing [`Account::epoch_is_owed`].
pub fn revoke(
    account: &Account,
    secrets: &Secrets,
    by: &DeviceKeys,
    device: DeviceId,
    now_ms: u64,
    entropy: Entropy<'_>,
) -> Result<Change, AccountError> {
    account.active(&device).ok_or(AccountError::NoSuchDevice)?;
    let mut draft = Draft::new(account, secrets, Author::Device(by), now_ms);
    draft.push(Body::RevokeDevice { device })?;
    if device != by.id() {
        draft.new_epoch(entropy)?;
    }
    Ok(draft.finish(Some(account.head)))
}

/// Begins an epoch.
pub fn new_epoch(
    account: &Account,
    secrets: &Secrets,
    by: &DeviceKeys,
    now_ms: u64,
    entropy: Entropy<'_>,
) -> Result<Change, AccountError> {
    let mut draft = Draft::new(account, secrets, Author::Device(by), now_ms);
    draft.new_epoch(entropy)?;
    Ok(draft.finish(Some(account.head)))
}

/// Gives a device another name, exactly as written.
pub fn rename(
    account: &Account,
    secrets: &Secrets,
    by: &DeviceKeys,
    device: DeviceId,
    name: &str,
    now_ms: u64,
    entropy: Entropy<'_>,
) -> Result<Change, AccountError> {
    name::check(name)?;
    account.active(&device).ok_or(AccountError::NoSuchDevice)?;
    let taken = active_names(account, secrets);
    if taken.iter().any(|(other, taken)| *other != device && same_name(taken, name)) {
        return Err(AccountError::NameTaken);
    }
    let name = name::seal_name(&secrets.account, account.id, device, name, entropy)?;
    let mut draft = Draft::new(account, secrets, Author::Device(by), now_ms);
    draft.push(Body::Rename { device, name })?;
    Ok(draft.finish(Some(account.head)))
}

/// Sets the account's configuration.
pub fn configure(
    account: &Account,
    secrets: &Secrets,
    by: &DeviceKeys,
    config: &Config,
    now_ms: u64,
    entropy: Entropy<'_>,
) -> Result<Change, AccountError> {
    let blob = config.seal(&secrets.account, account.id, entropy)?;
    let mut draft = Draft::new(account, secrets, Author::Device(by), now_ms);
    draft.push(Body::Config { hash: *blake3::hash(&blob).as_bytes() })?;
    draft.blobs.push(blob);
    Ok(draft.finish(Some(account.head)))
}

/// The names of all devices, as shown to a person. Those of active devices are distinct, whatever the log holds.
pub fn names(account: &Account, secrets: &Secrets) -> BTreeMap<DeviceId, String> {
    let mut names = active_names(account, secrets);
    for device in account.devices.values().filter(|device| device.revoked) {
        names.insert(device.id, opened_name(account, secrets, &device.id));
    }
    names
}

/// The active device that is called so.
pub fn device_named(account: &Account, secrets: &Secrets, name: &str) -> Option<DeviceId> {
    active_names(account, secrets).into_iter().find(|(_, other)| other == name).map(|(device, _)| device)
}

/// The wish, made into a valid name; with `-2`, `-3` behind it if it is taken.
pub fn unique_name(wish: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let wish = name::clean(wish);
    if !is_taken(&wish) {
        return wish;
    }
    let numbered = (2u64..).map(|number| {
        let suffix = format!("-{number}");
        format!("{}{suffix}", name::truncate(&wish, name::MAX_NAME - suffix.len()).trim_end())
    });
    numbered.into_iter().find(|name| !is_taken(name)).expect("there are more numbers than devices")
}

impl Secrets {
    /// Epochs that began while this device was in the account and whose keys it does not know: their sealed sets
    /// are to be fetched by [`Epoch::set`] and given to [`Self::adopt`].
    pub fn missing<'a>(&'a self, account: &'a Account, device: DeviceId) -> impl Iterator<Item = &'a Epoch> {
        let since = account.active(&device).map_or(u64::MAX, |device| u64::from(device.slot.0));
        account.epochs.iter().filter(move |epoch| epoch.seq > since && !self.epochs.contains_key(&epoch.number))
    }

    /// Opens a sealed set with this device's key and learns the epoch's key from it.
    pub fn adopt(&mut self, account: &Account, keys: &DeviceKeys, set: &[u8]) -> Result<(), AccountError> {
        let slot = account.active(&keys.id()).ok_or(AccountError::NoSuchDevice)?.slot;
        let epoch = epoch_of(account, set).ok_or(EpochError::OtherSet)?;
        let (key, secret) = epoch::open_set(account.id, epoch, set, Recipient::Device(slot, &keys.kem))?;
        if secret != self.account {
            return Err(AccountError::OtherSecret);
        }
        self.epochs.insert(epoch.number, key);
        Ok(())
    }

    /// The newest epoch's key, if it is known.
    pub fn newest(&self, account: &Account) -> Option<&EpochKey> {
        self.epochs.get(&account.epoch()?.number)
    }

    /// Whether these are what the account's log commits to, its newest epoch included.
    pub fn fit(&self, account: &Account) -> bool {
        let fits = |(number, key): (&u32, &EpochKey)| {
            let epoch = account.epochs.iter().find(|epoch| epoch.number == *number);
            let found = epoch::commitment(account.id, *number, key, &self.account);
            epoch.is_some_and(|epoch| epoch.commitment == found)
        };
        self.newest(account).is_some() && self.epochs.iter().all(fits)
    }

    /// The bytes, to be sealed at once.
    pub fn export(&self) -> WelcomeSecrets {
        let epochs = self.epochs.iter().map(|(number, key)| (*number, *key.0.bytes())).collect();
        WelcomeSecrets { account: *self.account.0.bytes(), epochs }
    }

    /// Reads what [`Self::export`] wrote.
    pub fn import(bytes: &WelcomeSecrets) -> Self {
        let epochs = bytes.epochs.iter().map(|(number, key)| (*number, EpochKey(Secret::from_bytes(*key)))).collect();
        Self { account: AccountSecret(Secret::from_bytes(bytes.account)), epochs }
    }

    fn open_all(account: &Account, sets: &[Vec<u8>], recipient: Recipient<'_>) -> Result<Self, AccountError> {
        let newest = account.epoch().ok_or(AccountError::NoEpoch)?;
        let set = sets.iter().find(|set| *blake3::hash(set).as_bytes() == newest.set).ok_or(AccountError::NoEpoch)?;
        let (key, secret) = epoch::open_set(account.id, newest, set, recipient)?;
        let mut secrets = Self { account: secret, epochs: BTreeMap::from([(newest.number, key)]) };
        for set in sets {
            let Some(epoch) = epoch_of(account, set) else { continue };
            let (key, secret) = epoch::open_set(account.id, epoch, set, recipient)?;
            if secret == secrets.account {
                secrets.epochs.insert(epoch.number, key);
            }
        }
        Ok(secrets)
    }
}

/// Who signs.
#[derive(Clone, Copy)]
enum Author<'a> {
    Root(&'a Root),
    Device(&'a DeviceKeys),
}

/// A change in the making: each entry is verified as it is added.
struct Draft<'a> {
    account: Account,
    secrets: Secrets,
    author: Author<'a>,
    now_ms: u64,
    entries: Vec<Vec<u8>>,
    blobs: Vec<Vec<u8>>,
}

impl<'a> Draft<'a> {
    fn new(account: &Account, secrets: &Secrets, author: Author<'a>, now_ms: u64) -> Self {
        let (account, secrets) = (account.clone(), secrets.clone());
        Self { account, secrets, author, now_ms, entries: Vec::new(), blobs: Vec::new() }
    }

    fn push(&mut self, body: Body) -> Result<(), LogError> {
        let (signer, key) = match self.author {
            Author::Root(root) => (Signer::Root, &root.sign),
            Author::Device(keys) => (Signer::Device(keys.id()), &keys.sign),
        };
        let entry = self.account.next_entry(body, signer, self.now_ms).sign(key);
        self.account.extend(std::slice::from_ref(&entry))?;
        self.entries.push(entry);
        Ok(())
    }

    fn add_device(&mut self, newcomer: &Newcomer<'_>, entropy: Entropy<'_>) -> Result<(), AccountError> {
        let Newcomer { keys, wish, caps } = *newcomer;
        let taken = active_names(&self.account, &self.secrets);
        let name = unique_name(wish, |name| taken.values().any(|taken| same_name(taken, name)));
        let device = hearth_schemas::log::device_id(&keys.sign);
        let name = name::seal_name(&self.secrets.account, self.account.id, device, &name, entropy)?;
        Ok(self.push(Body::AddDevice { keys: keys.clone(), name, caps })?)
    }

    fn new_epoch(&mut self, entropy: Entropy<'_>) -> Result<(), AccountError> {
        let number = self.account.next_epoch();
        let key = EpochKey(Secret::random(&mut *entropy));
        let secret = &self.secrets.account;
        let blob = epoch::seal_set(&self.account, number, &key, secret, entropy);
        let commitment = epoch::commitment(self.account.id, number, &key, secret);
        self.push(Body::NewEpoch { number, commitment, set: *blake3::hash(&blob).as_bytes() })?;
        self.secrets.epochs.insert(number, key);
        self.blobs.push(blob);
        Ok(())
    }

    fn finish(self, after: Option<Head>) -> Change {
        let Self { account, secrets, entries, blobs, author: _, now_ms: _ } = self;
        Change { after, entries, blobs, account, secrets }
    }
}

fn epoch_of<'a>(account: &'a Account, set: &[u8]) -> Option<&'a Epoch> {
    let hash = *blake3::hash(set).as_bytes();
    account.epochs.iter().find(|epoch| epoch.set == hash)
}

/// Names in the order of the devices' slots: of two that are called alike, the later one gets a number.
fn active_names(account: &Account, secrets: &Secrets) -> BTreeMap<DeviceId, String> {
    let mut devices: Vec<_> = account.active_devices().collect();
    devices.sort_by_key(|device| device.slot);
    let mut names: BTreeMap<DeviceId, String> = BTreeMap::new();
    for device in devices {
        let opened = opened_name(account, secrets, &device.id);
        let name = unique_name(&opened, |name| names.values().any(|taken| same_name(taken, name)));
        names.insert(device.id, name);
    }
    names
}

fn opened_name(account: &Account, secrets: &Secrets, id: &DeviceId) -> String {
    let Some(device) = account.devices.get(id) else { return String::new() };
    name::open_name(&secrets.account, account.id, *id, &device.name)
        .unwrap_or_else(|_| format!("device-{}", device.slot.0))
}

/// Names that differ in case only would be mistaken for each other.
fn same_name(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_schemas::address::RelayAddress;
    use hearth_schemas::log::Refused;

    #[test]
    fn a_created_account_verifies_and_knows_its_device() {
        let mut world = World::new();
        let change = world.created.clone();
        let account = Account::verify(change.account.id, &change.entries).expect("a good log");
        assert_eq!(account, change.account);
        assert_eq!(account.id, world.phrase.root().account());
        assert_eq!(names(&account, &change.secrets).into_values().collect::<Vec<_>>(), ["laptop"]);
        assert!(change.secrets.fit(&account));
        assert_eq!(change.blobs.len(), 1);
        let mut again = Secrets { epochs: BTreeMap::new(), ..change.secrets.clone() };
        assert_eq!(again.missing(&account, world.laptop.id()).count(), 1);
        again.adopt(&account, &world.laptop, &change.blobs[0]).expect("sealed to this device");
        assert!(again == change.secrets);
        let stranger = world.keys();
        assert_eq!(again.adopt(&account, &stranger, &change.blobs[0]), Err(AccountError::NoSuchDevice));
    }

    #[test]
    fn a_configuration_is_in_force_once_the_log_names_it() {
        let mut world = World::new();
        let created = world.created.clone();
        let relays = ["hearth://one.example:443", "hearth://two.example:443"];
        let config = Config { relays: relays.map(|text| RelayAddress::parse(text).expect("an address")).to_vec() };
        let (account, secrets) = (&created.account, &created.secrets);
        let change = configure(account, secrets, &world.laptop, &config, 2, &mut counting()).expect("a configuration");
        assert_eq!(change.account.config, Some(*blake3::hash(&change.blobs[0]).as_bytes()));
        assert_eq!(Config::open(&secrets.account, account.id, &change.blobs[0]), Ok(config.clone()));
        let none = configure(account, secrets, &world.laptop, &Config { relays: vec![] }, 2, &mut counting());
        assert_eq!(none.err(), Some(AccountError::Config(ConfigError::Count)));
        let stranger = world.keys();
        let refused = configure(account, secrets, &stranger, &config, 2, &mut counting());
        assert!(matches!(refused.err(), Some(AccountError::Log(_))));
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut world = World::new();
        let mut change = world.created.clone();
        for _ in 0..3 {
            let joiner = world.keys();
            change = world.add(&change, &joiner, "Laptop");
        }
        let mut names: Vec<_> = names(&change.account, &change.secrets).into_values().collect();
        names.sort();
        assert_eq!(names, ["Laptop-2", "Laptop-3", "Laptop-4", "laptop"]);
        let long = "x".repeat(name::MAX_NAME);
        assert_eq!(unique_name(&long, |name| name == long), format!("{}-2", &long[2..]));
        assert_eq!(unique_name("../evil", |_| false), "evil");
    }

    #[test]
    fn renaming_keeps_names_valid_and_distinct() {
        let mut world = World::new();
        let desktop = world.keys();
        let change = world.add(&world.created.clone(), &desktop, "desktop");
        let table = [
            ("tower", Ok(())),
            ("DESKTOP", Ok(())),
            ("laptop", Err(AccountError::NameTaken)),
            ("LapTop", Err(AccountError::NameTaken)),
            ("a/b", Err(AccountError::Name(NameError::Character))),
        ];
        for (name, wanted) in table {
            let renamed =
                rename(&change.account, &change.secrets, &world.laptop, desktop.id(), name, 5, &mut world.entropy);
            assert_eq!(renamed.as_ref().map(|_| ()).map_err(Clone::clone), wanted, "{name}");
            if let Ok(renamed) = renamed {
                assert_eq!(device_named(&renamed.account, &renamed.secrets, name), Some(desktop.id()));
                assert_eq!(device_named(&renamed.account, &renamed.secrets, "desktop"), None);
            }
        }
    }

    #[test]
    fn a_revoked_device_does_not_learn_the_key_that_others_learn() {
        let mut world = World::new();
        let (desktop, thief) = (world.keys(), world.keys());
        let change = world.add(&world.created.clone(), &desktop, "desktop");
        let before = world.add(&change, &thief, "thief");
        let change =
            revoke(&before.account, &before.secrets, &world.laptop, thief.id(), 9, &mut world.entropy).expect("may");
        assert_eq!(change.entries.len(), 2);
        assert!(change.account.active(&thief.id()).is_none() && !change.account.epoch_is_owed());
        assert!(change.secrets.fit(&change.account) && !before.secrets.fit(&change.account));
        let set = &change.blobs[0];
        let mut secrets = before.secrets.clone();
        assert_eq!(secrets.missing(&change.account, desktop.id()).count(), 1);
        secrets.adopt(&change.account, &desktop, set).expect("sealed to it");
        assert!(secrets == change.secrets);
        assert_eq!(secrets.adopt(&change.account, &thief, set), Err(AccountError::NoSuchDevice));
        let slot = before.account.active(&thief.id()).expect("was active").slot;
        let epoch = change.account.epoch().expect("began");
        let forced = epoch::open_set(change.account.id, epoch, set, Recipient::Device(slot, &thief.kem));
        assert_eq!(forced.err(), Some(EpochError::NotForUs));
    }

    #[test]
    fn a_device_that_leaves_owes_the_others_an_epoch() {
        let mut world = World::new();
        let desktop = world.keys();
        let change = world.add(&world.created.clone(), &desktop, "desktop");
        let (account, secrets) = (&change.account, &change.secrets);
        let left = revoke(account, secrets, &world.laptop, world.laptop.id(), 9, &mut world.entropy).expect("may");
        assert!(left.account.epoch_is_owed());
        let refused = new_epoch(&left.account, secrets, &world.laptop, 9, &mut world.entropy);
        let reason = refused.err().expect("left");
        assert!(matches!(reason, AccountError::Log(LogError { reason: Refused::Revoked, .. })));
        let paid = new_epoch(&left.account, secrets, &desktop, 9, &mut world.entropy).expect("may");
        assert!(!paid.account.epoch_is_owed());
    }

    #[test]
    fn the_phrase_and_the_sealed_sets_are_enough_to_join() {
        let mut world = World::new();
        let desktop = world.keys();
        let created = world.created.clone();
        let mut sets = created.blobs.clone();
        let change = new_epoch(&created.account, &created.secrets, &world.laptop, 5, &mut world.entropy).expect("may");
        sets.extend(change.blobs.clone());
        let phrase = world.phrase.clone();
        let mut join = |sets: &[Vec<u8>], phrase: &Phrase| {
            join_by_phrase(&change.account, sets, phrase, &desktop, "laptop", 6, &mut world.entropy)
        };
        let joined = join(&sets, &phrase).expect("its phrase");
        assert!(joined.secrets == change.secrets);
        assert_eq!(device_named(&joined.account, &joined.secrets, "laptop-2"), Some(desktop.id()));
        assert_eq!(join(&sets[..1], &phrase).err(), Some(AccountError::NoEpoch));
        assert_eq!(join(&sets[1..], &phrase).map(|joined| joined.secrets.epochs.len()).ok(), Some(1));
        let other = Phrase::random(&mut |bytes| bytes.fill(77));
        assert_eq!(join(&sets, &other).err(), Some(AccountError::OtherPhrase));
    }

    #[test]
    fn secrets_survive_being_written_and_read_and_fit_no_other_account() {
        let world = World::new();
        let change = &world.created;
        assert!(Secrets::import(&change.secrets.export()) == change.secrets);
        let mut other = change.secrets.clone();
        other.account = AccountSecret(Secret::from_bytes([1; 32]));
        assert!(!other.fit(&change.account));
        let mut other = change.secrets.clone();
        other.epochs.insert(2, EpochKey(Secret::from_bytes([1; 32])));
        assert!(!other.fit(&change.account));
    }

    type Random = Box<dyn FnMut(&mut [u8])>;

    /// An account with a laptop, and entropy that never repeats.
    struct World {
        phrase: Phrase,
        laptop: DeviceKeys,
        created: Change,
        entropy: Random,
    }

    impl World {
        fn new() -> Self {
            let mut entropy: Random = Box::new(counting());
            let phrase = Phrase::random(&mut entropy);
            let laptop = DeviceKeys::random(&mut entropy);
            let created = create(&phrase, &laptop, "laptop", 1, &mut entropy).expect("a good account");
            Self { phrase, laptop, created, entropy }
        }

        fn keys(&mut self) -> DeviceKeys {
            DeviceKeys::random(&mut self.entropy)
        }

        fn add(&mut self, to: &Change, joiner: &DeviceKeys, wish: &str) -> Change {
            let newcomer = Newcomer { keys: &joiner.public(), wish, caps: Caps::ALL };
            add_device(&to.account, &to.secrets, &self.laptop, &newcomer, 2, &mut self.entropy).expect("a good device")
        }
    }

    fn counting() -> impl FnMut(&mut [u8]) {
        let mut counter = 0u64;
        move |bytes: &mut [u8]| {
            for chunk in bytes.chunks_mut(32) {
                counter += 1;
                chunk.copy_from_slice(&blake3::hash(&counter.to_le_bytes()).as_bytes()[..chunk.len()]);
            }
        }
    }
}
