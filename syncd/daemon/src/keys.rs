//! This device's keys at rest, and the account state that goes with them.
//!
//! Two files in the state directory, 0600 in a directory of 0700: `keys`, a sealed [`Stored`], and `keys.secret`,
//! half of what opens it. The other half is in the Secret Service, if one was open when the keys were made; which
//! of the two it is stands in the file's header and is chosen once. Nothing here unlocks a key ring or waits for a
//! person: a key ring that is locked gives [`KeysError::KeyringLocked`], and the caller tries again later.
//!
//! What the keys mean is [`hearth_schemas::keys`]'s business. The device log is kept here because its newest entry
//! is this device's pin: no shorter log is believed again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_schemas::address::RelayAddress;
use hearth_schemas::codec::{self, DecodeError};
use hearth_schemas::ids::AccountId;
use hearth_schemas::keys::{self, DEVICE_KEYS, DeviceKeys, Secret};
use hearth_schemas::label;
use hearth_schemas::log::{Account, LogError, MAX_ENTRIES, MAX_ENTRY};
use hearth_schemas::pairing::WelcomeSecrets;
use hearth_schemas::seal;
use serde::{Deserialize, Serialize};
use syncd_core::account::Secrets;
use zeroize::{Zeroize, Zeroizing};

const KEYS: &str = "keys";
const FILE_SECRET: &str = "keys.secret";
const VERSION: u8 = 1;
/// Longest `keys` file, in bytes: a full device log and what goes with it.
const MAX_FILE: usize = MAX_ENTRIES * MAX_ENTRY + (1 << 20);
/// How long a Secret Service may take to answer.
const KEYRING_WAIT: Duration = Duration::from_secs(5);
/// How often a locked key ring is asked again within that time.
const KEYRING_POLL: Duration = Duration::from_millis(250);

/// What this device keeps.
pub struct Stored {
    /// Its keys.
    pub device: DeviceKeys,
    /// The account that it is in, if it is in one.
    pub member: Option<Member>,
}

/// A device's part in an account.
pub struct Member {
    /// The account, as far as its log is known.
    pub account: Account,
    /// Its secrets.
    pub secrets: Secrets,
    /// Its relays.
    pub relays: Vec<RelayAddress>,
}

/// What the keys are sealed with. Chosen when they are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Seal {
    /// The file secret alone: this machine had no open key ring.
    File,
    /// The file secret and a secret in the Secret Service.
    Keyring {
        /// Names the secret among the key ring's items.
        item: [u8; 16],
    },
}

/// Why keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The key ring is locked or not there today; it may open later.
    #[error("the key ring is locked")]
    KeyringLocked,
    /// The key ring is open and does not hold our half.
    #[error("the key ring does not hold the secret that opens this machine's keys")]
    KeyringForgot,
    /// The file secret is missing or damaged.
    #[error("the file {FILE_SECRET} is missing or damaged")]
    NoFileSecret,
    /// The halves do not open the file, or it was changed.
    #[error("the file {KEYS} does not open")]
    NotOpened,
    /// It opens, but not to what we write.
    #[error("the file {KEYS} is malformed")]
    Malformed(#[source] DecodeError),
    /// The device log in it does not verify.
    #[error("the device log in the file {KEYS} does not verify")]
    Log(#[from] LogError),
    /// The operating system gives no random bytes.
    #[error("the system gives no random bytes")]
    Entropy,
    /// Reading or writing failed.
    #[error("reading or writing this machine's keys")]
    Io(#[from] io::Error),
}

/// The place where the keys are kept, with what opens it.
pub struct KeyStore {
    dir: PathBuf,
    seal: Seal,
    key: Secret,
}

impl KeyStore {
    /// Reads what this device keeps; `None` if it keeps nothing yet. Takes up to 5 s if the key ring is slow.
    pub async fn open(dir: &Path) -> Result<Option<(Self, Stored)>, KeysError> {
        let Some(file) = KeyFile::read(dir)? else { return Ok(None) };
        let keyring = match file.seal {
            Seal::File => None,
            Seal::Keyring { item } => Some(keyring_secret(item).await?),
        };
        Self::open_with(dir, file, keyring.as_ref()).map(Some)
    }

    /// Makes a place for keys and chooses its seal: with a Secret Service that opens within 5 s, unless the caller
    /// wants none, else with the file alone. Nothing is kept before the first [`Self::save`]; where something is kept
    /// already it is refused.
    pub async fn create(dir: &Path, with_keyring: bool) -> Result<Self, KeysError> {
        if dir.join(KEYS).try_exists()? {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
        }
        let mut item = [0; 16];
        getrandom::fill(&mut item).map_err(|_| KeysError::Entropy)?;
        let secret = random_secret()?;
        let kept = with_keyring && keep_in_keyring(item, &secret).await;
        if kept {
            Self::create_with(dir, Seal::Keyring { item }, Some(&secret))
        } else {
            Self::create_with(dir, Seal::File, None)
        }
    }

    /// Replaces what is kept, at once and durably: after a crash it is the old or the new.
    pub fn save(&self, stored: &Stored) -> Result<(), KeysError> {
        let plain = Zeroizing::new(codec::encode(&Raw::of(stored)));
        let bytes = seal::seal(self.key.bytes(), &place(self.seal), &plain, &mut entropy()?);
        let file = KeyFile { version: VERSION, seal: self.seal, bytes };
        Ok(write(&self.dir, KEYS, &codec::encode(&file))?)
    }

    /// What the keys are sealed with.
    pub fn seal(&self) -> Seal {
        self.seal
    }

    fn create_with(dir: &Path, seal: Seal, keyring: Option<&Secret>) -> Result<Self, KeysError> {
        private_dir(dir)?;
        let file = random_secret()?;
        write(dir, FILE_SECRET, file.bytes())?;
        Ok(Self { dir: dir.to_owned(), seal, key: combined(keyring, &file) })
    }

    fn open_with(dir: &Path, file: KeyFile, keyring: Option<&Secret>) -> Result<(Self, Stored), KeysError> {
        let half = read(dir, FILE_SECRET, 32)?.ok_or(KeysError::NoFileSecret)?;
        let half = Secret::from_bytes(half.as_slice().try_into().map_err(|_| KeysError::NoFileSecret)?);
        let store = Self { dir: dir.to_owned(), seal: file.seal, key: combined(keyring, &half) };
        let plain = seal::open(store.key.bytes(), &place(file.seal), &file.bytes).map_err(|_| KeysError::NotOpened)?;
        let raw: Raw = codec::decode(&plain, MAX_FILE).map_err(KeysError::Malformed)?;
        Ok((store, raw.into_stored()?))
    }
}

/// Keeps this process's memory from other programs of the user and out of core dumps.
pub fn harden() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// The `keys` file.
#[derive(Serialize, Deserialize)]
struct KeyFile {
    version: u8,
    seal: Seal,
    bytes: Vec<u8>,
}

impl KeyFile {
    fn read(dir: &Path) -> Result<Option<Self>, KeysError> {
        let Some(bytes) = read(dir, KEYS, MAX_FILE)? else { return Ok(None) };
        let file: Self = codec::decode(&bytes, MAX_FILE).map_err(KeysError::Malformed)?;
        if file.version != VERSION {
            return Err(KeysError::Malformed(DecodeError::Malformed));
        }
        Ok(Some(file))
    }
}

/// [`Stored`] as it is encoded.
#[derive(Serialize, Deserialize)]
struct Raw {
    device: Vec<u8>,
    member: Option<RawMember>,
}

#[derive(Serialize, Deserialize)]
struct RawMember {
    account: AccountId,
    entries: Vec<Vec<u8>>,
    secrets: WelcomeSecrets,
    relays: Vec<String>,
}

impl Raw {
    fn of(stored: &Stored) -> Self {
        let member = stored.member.as_ref().map(|member| RawMember {
            account: member.account.id,
            entries: member.account.entries().to_vec(),
            secrets: member.secrets.export(),
            relays: member.relays.iter().map(ToString::to_string).collect(),
        });
        Self { device: stored.device.to_bytes().to_vec(), member }
    }

    fn into_stored(mut self) -> Result<Stored, KeysError> {
        let malformed = || KeysError::Malformed(DecodeError::Malformed);
        let bytes: &[u8; DEVICE_KEYS] = self.device.as_slice().try_into().map_err(|_| malformed())?;
        let device = DeviceKeys::from_bytes(bytes);
        let member = match self.member.take() {
            None => None,
            Some(raw) => {
                let relays = raw.relays.iter().map(|text| RelayAddress::parse(text));
                Some(Member {
                    account: Account::verify(raw.account, &raw.entries)?,
                    secrets: Secrets::import(&raw.secrets),
                    relays: relays.collect::<Result<_, _>>().map_err(|_| malformed())?,
                })
            }
        };
        Ok(Stored { device, member })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.device.zeroize();
    }
}

/// The key of the seal: either half alone is useless.
fn combined(keyring: Option<&Secret>, file: &Secret) -> Secret {
    let mut halves = Zeroizing::new(Vec::with_capacity(64));
    if let Some(keyring) = keyring {
        halves.extend_from_slice(keyring.bytes());
    }
    halves.extend_from_slice(file.bytes());
    keys::derive(&[], &halves, label::KEYS_AT_REST)
}

fn place(seal: Seal) -> Vec<u8> {
    codec::encode(&(label::KEYS_AT_REST, VERSION, seal))
}

fn random_secret() -> Result<Secret, KeysError> {
    Ok(Secret::random(&mut entropy()?))
}

/// Entropy of the operating system, proven to be there.
fn entropy() -> Result<impl FnMut(&mut [u8]), KeysError> {
    getrandom::fill(&mut [0; 32]).map_err(|_| KeysError::Entropy)?;
    Ok(|bytes: &mut [u8]| getrandom::fill(bytes).expect("the system gave random bytes a moment ago"))
}

/// Puts a fresh secret into the default key ring, if one is open within the time. Never asks a person.
async fn keep_in_keyring(item: [u8; 16], secret: &Secret) -> bool {
    let kept = tokio::time::timeout(KEYRING_WAIT, async {
        let service = oo7::dbus::Service::new().await?;
        let Some(collection) = service.with_alias(oo7::dbus::Service::DEFAULT_COLLECTION).await? else {
            return Ok(false);
        };
        while collection.is_locked().await? {
            tokio::time::sleep(KEYRING_POLL).await;
        }
        let secret = oo7::Secret::blob(secret.bytes());
        collection.create_item("Hearth: this machine's keys", &attributes(item), secret, true, None).await?;
        Ok::<_, oo7::dbus::Error>(true)
    });
    match kept.await {
        Ok(Ok(kept)) => kept,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no key ring");
            false
        }
        Err(_) => {
            tracing::debug!("the key ring did not open in time");
            false
        }
    }
}

/// Fetches our secret from the key ring. Never asks a person.
async fn keyring_secret(item: [u8; 16]) -> Result<Secret, KeysError> {
    let fetched = tokio::time::timeout(KEYRING_WAIT, async {
        let service = oo7::dbus::Service::new().await?;
        let mut any_locked = false;
        let collections = service.collections().await?;
        for collection in &collections {
            any_locked |= collection.is_locked().await?;
            if let Some(item) = collection.search_items(&attributes(item)).await?.first() {
                return if item.is_locked().await? {
                    Ok(Found::Locked)
                } else {
                    Ok(Found::Secret(item.secret().await?))
                };
            }
        }
        let nothing_yet = any_locked || collections.is_empty();
        Ok::<_, oo7::dbus::Error>(if nothing_yet { Found::Locked } else { Found::Nothing })
    });
    match fetched.await {
        Ok(Ok(Found::Secret(secret))) => {
            let bytes = secret.as_bytes().try_into().map_err(|_| KeysError::KeyringForgot)?;
            Ok(Secret::from_bytes(bytes))
        }
        Ok(Ok(Found::Nothing)) => Err(KeysError::KeyringForgot),
        Ok(Ok(Found::Locked)) => Err(KeysError::KeyringLocked),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the key ring does not answer");
            Err(KeysError::KeyringLocked)
        }
        Err(_) => Err(KeysError::KeyringLocked),
    }
}

/// What a key ring has of ours.
enum Found {
    Secret(oo7::Secret),
    Locked,
    Nothing,
}

fn attributes(item: [u8; 16]) -> [(&'static str, String); 2] {
    let item: String = item.iter().map(|byte| format!("{byte:02x}")).collect();
    [("xdg:schema", "org.hearth.Keys".to_owned()), ("item", item)]
}

/// Makes a directory that is its owner's alone, or makes it so.
fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Reads a file of ours, `None` if there is none, and takes it away from everybody else.
fn read(dir: &Path, name: &str, limit_bytes: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let path = dir.join(name);
    let meta = match fs::symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !meta.is_file() || meta.len() > limit_bytes as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file that we wrote"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        tracing::warn!(name, "was open to other users of this computer");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    }
    fs::read(&path).map(|bytes| Some(Zeroizing::new(bytes)))
}

/// Replaces a file of ours: written aside, made durable, renamed, and the rename made durable.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    private_dir(dir)?;
    let aside = dir.join(format!("{name}.new"));
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_schemas::keys::Phrase;

    #[tokio::test]
    async fn what_is_kept_is_read_back_with_the_file_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state/hearth");
        assert!(KeyStore::open(&state).await.expect("nothing yet").is_none());
        let store = KeyStore::create(&state, false).await.expect("a place");
        let stored = stored();
        store.save(&stored).expect("kept");
        store.save(&stored).expect("kept again");
        assert!(matches!(KeyStore::create(&state, false).await, Err(KeysError::Io(_))));
        let (again, read) = KeyStore::open(&state).await.expect("readable").expect("kept");
        assert_eq!((store.seal(), again.seal()), (Seal::File, Seal::File));
        assert_eq!(read.device.public(), stored.device.public());
        let (read, kept) = (read.member.expect("in an account"), stored.member.expect("in an account"));
        assert_eq!(read.account, kept.account);
        assert!(read.secrets == kept.secrets);
        assert_eq!(read.relays, kept.relays);
    }

    #[tokio::test]
    async fn files_are_their_owners_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("hearth");
        fs::create_dir(&state).expect("a directory");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).expect("open to all");
        let store = KeyStore::create(&state, false).await.expect("a place");
        store.save(&stored()).expect("kept");
        fs::set_permissions(state.join(FILE_SECRET), fs::Permissions::from_mode(0o644)).expect("open to all");
        KeyStore::open(&state).await.expect("readable");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        for name in [KEYS, FILE_SECRET] {
            assert_eq!(mode(&state.join(name)), 0o600, "{name}");
        }
        assert_eq!(fs::read_dir(&state).expect("readable").count(), 2, "nothing is left aside");
    }

    #[test]
    fn either_half_alone_is_useless() {
        let dir = tempfile::tempdir().expect("a directory");
        let keyring = Secret::from_bytes([1; 32]);
        let store =
            KeyStore::create_with(dir.path(), Seal::Keyring { item: [7; 16] }, Some(&keyring)).expect("a place");
        store.save(&stored()).expect("kept");
        let open = |keyring: Option<&Secret>| {
            let file = KeyFile::read(dir.path()).expect("readable").expect("kept");
            KeyStore::open_with(dir.path(), file, keyring).map(|_| ())
        };
        assert!(open(Some(&keyring)).is_ok());
        assert!(matches!(open(None), Err(KeysError::NotOpened)));
        assert!(matches!(open(Some(&Secret::from_bytes([2; 32]))), Err(KeysError::NotOpened)));
        let half = fs::read(dir.path().join(FILE_SECRET)).expect("there");
        fs::write(dir.path().join(FILE_SECRET), [3; 32]).expect("replaced");
        assert!(matches!(open(Some(&keyring)), Err(KeysError::NotOpened)));
        fs::remove_file(dir.path().join(FILE_SECRET)).expect("removed");
        assert!(matches!(open(Some(&keyring)), Err(KeysError::NoFileSecret)));
        fs::write(dir.path().join(FILE_SECRET), &half[1..]).expect("cut");
        assert!(matches!(open(Some(&keyring)), Err(KeysError::NoFileSecret)));
    }

    #[test]
    fn a_changed_file_is_never_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = KeyStore::create_with(dir.path(), Seal::File, None).expect("a place");
        let device = DeviceKeys::from_bytes(&[5; DEVICE_KEYS]);
        store.save(&Stored { device, member: None }).expect("kept");
        let good = fs::read(dir.path().join(KEYS)).expect("there");
        for byte in 0..good.len() {
            let mut changed = good.clone();
            changed[byte] ^= 1;
            fs::write(dir.path().join(KEYS), &changed).expect("written");
            let opened = KeyFile::read(dir.path())
                .and_then(|file| KeyStore::open_with(dir.path(), file.expect("there"), None).map(|_| ()));
            assert!(opened.is_err(), "byte {byte}");
        }
    }

    #[test]
    fn no_secret_stands_in_the_files_in_the_clear() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = KeyStore::create_with(dir.path(), Seal::File, None).expect("a place");
        let stored = stored();
        store.save(&stored).expect("kept");
        let file = fs::read(dir.path().join(KEYS)).expect("there");
        let secret = stored.member.expect("in an account").secrets.account.0.bytes().to_vec();
        for canary in [&stored.device.to_bytes()[..32], &stored.device.to_bytes()[64..], &secret] {
            assert!(!file.windows(canary.len()).any(|window| window == canary));
        }
    }

    fn stored() -> Stored {
        let mut entropy = entropy().expect("random bytes");
        let device = DeviceKeys::random(&mut entropy);
        let phrase = Phrase::random(&mut entropy);
        let created = syncd_core::account::create(&phrase, &device, "laptop", 1, &mut entropy).expect("an account");
        let relays = vec![RelayAddress::parse("hearth://relay.example:443").expect("an address")];
        let member = Member { account: created.account, secrets: created.secrets, relays };
        Stored { device, member: Some(member) }
    }
}
