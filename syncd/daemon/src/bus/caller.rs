//! Decides whether a caller may do what changes the account.
//!
//! Joining, revoking and the like are refused to another user and to a program in a sandbox: a Flatpak or Snap that
//! may talk to us must not enrol a machine of its own. Callers are known by the process id that the kernel (private
//! socket) or the bus (session bus) vouches for; a process that cannot be looked at counts as sandboxed.

use std::io::ErrorKind;
use std::path::Path;

use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::Header;

use super::Failure;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// One process of our own user, on the private socket.
    OnSocket(Result<(), Confinement>),
    /// Any process on the session bus; asked for at each call.
    OnSessionBus,
}

/// Why a process is not let near the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// It runs in a Flatpak sandbox.
    Flatpak,
    /// It runs in a Snap sandbox.
    Snap,
    /// It belongs to another user.
    OtherUser,
    /// Nothing can be found out about it.
    Unknown,
}

impl Caller {
    /// The caller on the private socket with this process id, whose user has been checked already.
    pub fn on_socket(pid: Option<i32>) -> Self {
        Self::OnSocket(pid.filter(|pid| *pid > 0).map_or(Err(Confinement::Unknown), free))
    }

    /// Refuses, with a reason, whoever must not change the account.
    pub async fn may_do_privileged_things(&self, header: &Header<'_>, connection: &Connection) -> Result<(), Failure> {
        let answer = match self {
            Self::OnSocket(answer) => *answer,
            Self::OnSessionBus => on_session_bus(header, connection).await,
        };
        answer.map_err(Confinement::refusal)
    }
}

impl Confinement {
    fn refusal(self) -> Failure {
        let what = match self {
            Self::Flatpak => "a program in a Flatpak sandbox may not change the account",
            Self::Snap => "a program in a Snap sandbox may not change the account",
            Self::OtherUser => "another user may not change the account",
            Self::Unknown => "a program that cannot be identified may not change the account",
        };
        Failure::failed(what, "run `hearth` in a terminal of your own session, outside of any sandbox")
    }
}

async fn on_session_bus(header: &Header<'_>, connection: &Connection) -> Result<(), Confinement> {
    let sender = header.sender().ok_or(Confinement::Unknown)?.to_owned();
    let proxy = DBusProxy::new(connection).await.map_err(|_| Confinement::Unknown)?;
    let credentials = proxy.get_connection_credentials(sender.into()).await.map_err(|_| Confinement::Unknown)?;
    let uid = credentials.unix_user_id().ok_or(Confinement::Unknown)?;
    if uid != rustix::process::geteuid().as_raw() {
        return Err(Confinement::OtherUser);
    }
    free(credentials.process_id().and_then(|pid| i32::try_from(pid).ok()).ok_or(Confinement::Unknown)?)
}

fn free(pid: i32) -> Result<(), Confinement> {
    free_in(&Path::new("/proc").join(pid.to_string()))
}

/// Looks at a process through its directory in `/proc`.
fn free_in(process: &Path) -> Result<(), Confinement> {
    let cgroup = std::fs::read_to_string(process.join("cgroup")).map_err(|_| Confinement::Unknown)?;
    if cgroup.lines().flat_map(|line| line.split('/')).any(|part| part.starts_with("snap.")) {
        return Err(Confinement::Snap);
    }
    match process.join("root/.flatpak-info").symlink_metadata() {
        Ok(_) => Err(Confinement::Flatpak),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(_) => Err(Confinement::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_free() {
        assert_eq!(free(std::process::id().cast_signed()), Ok(()));
        assert_eq!(Caller::on_socket(None), Caller::OnSocket(Err(Confinement::Unknown)));
        assert_eq!(Caller::on_socket(Some(0)), Caller::OnSocket(Err(Confinement::Unknown)));
    }

    #[test]
    fn a_sandbox_is_recognised_by_what_the_kernel_shows_of_it() {
        let table = [
            ("0::/user.slice/user-1000.slice/app.slice/foot.scope\n", false, Ok(())),
            ("0::/user.slice/user-1000.slice/app.slice/foot.scope\n", true, Err(Confinement::Flatpak)),
            ("0::/user.slice/snap.firefox.firefox-7d1.scope\n", false, Err(Confinement::Snap)),
            ("12:pids:/x\n1:name=systemd:/a/snap.code.code.1.scope/b\n", false, Err(Confinement::Snap)),
            ("0::/user.slice/not-snap.scope\n", false, Ok(())),
        ];
        for (cgroup, flatpak, wanted) in table {
            let process = tempfile::tempdir().expect("a temporary directory");
            std::fs::create_dir(process.path().join("root")).expect("empty");
            std::fs::write(process.path().join("cgroup"), cgroup).expect("written");
            if flatpak {
                std::fs::write(process.path().join("root/.flatpak-info"), "").expect("written");
            }
            assert_eq!(free_in(process.path()), wanted, "{cgroup}");
        }
        assert_eq!(free_in(Path::new("/nonexistent/4711")), Err(Confinement::Unknown));
    }
}
