//! What a process may do: its user and its capabilities (capabilities(7)). All of it is a matter of threads in the kernel.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

/// Becomes `uid` and `gid` for good, with no supplementary groups and no capability but, with `keep_net_raw`, CAP_NET_RAW: the right
/// to connect from addresses that are not this host's. For a process with one thread.
///
/// # Errors
/// When the kernel refuses (with `keep_net_raw` also when there is no such right to keep), or when root could still be regained
/// afterwards.
pub fn become_user(uid: u32, gid: u32, keep_net_raw: bool) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if !uid.is_root() {
        empty_bounding_set();
    }
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    if keep_net_raw {
        // Else the change of user takes all of them.
        rustix::thread::set_keep_capabilities(true)?;
    }
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    if uid.is_root() {
        return Ok(());
    }
    keep_only(kept(keep_net_raw)?)?;
    rustix::thread::set_keep_capabilities(false)?;
    if rustix::thread::set_thread_uid(Uid::ROOT).is_ok() {
        return Err(io::Error::other("root could be regained"));
    }
    Ok(())
}

/// Gives up every capability of a process that is not root but the right to connect from addresses that are not this host's, and that
/// too without `keep_net_raw`. For one that need not change its user: a service manager may have started it with capabilities that
/// its children inherit (ambient ones). A process of root is left as it is. For a process with one thread.
///
/// # Errors
/// What the kernel says; giving up is always allowed.
pub fn give_up_rights(keep_net_raw: bool) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    keep_only(kept(keep_net_raw)?)
}

/// Gives up all but `kept`. Not inheritable any more, and so not ambient either (capabilities(7)): nothing that is executed from here
/// has it.
fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// What is kept of what there is.
fn kept(keep_net_raw: bool) -> io::Result<CapabilitySet> {
    let permitted = rustix::thread::capabilities(None)?.permitted;
    let wanted = match keep_net_raw {
        // Either will do, and one is enough.
        true if permitted.contains(CapabilitySet::NET_RAW) => CapabilitySet::NET_RAW,
        true => CapabilitySet::NET_ADMIN,
        false => CapabilitySet::empty(),
    };
    Ok(permitted & wanted)
}

/// Whether this thread may connect from addresses that are not this host's (IP_TRANSPARENT): CAP_NET_RAW, or CAP_NET_ADMIN.
#[must_use]
pub fn has_net_raw() -> bool {
    let either = CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.intersects(either))
}

/// No program that is executed from here on can gain a capability by its file. Needs CAP_SETPCAP, which a service manager may have
/// taken away; then `no_new_privs` alone has to say so.
fn empty_bounding_set() {
    for (_, capability) in CapabilitySet::all().iter_names() {
        if rustix::thread::remove_capability_from_bounding_set(capability)
            == Err(rustix::io::Errno::PERM)
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::outgoing::set_transparent;

    const NOBODY: u32 = 65_534;

    /// What a thread that has become nobody may do. Users and capabilities are the thread's own, so the others keep theirs.
    fn as_nobody<T: Send + 'static>(
        keep_net_raw: bool,
        then: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = std::thread::spawn(move || {
            become_user(NOBODY, NOBODY, keep_net_raw).unwrap();
            rustix::thread::set_no_new_privs(true).unwrap();
            then()
        });
        thread.join().unwrap()
    }

    fn is_root() -> bool {
        let all = [CapabilitySet::SETUID, CapabilitySet::SETGID];
        let sets = rustix::thread::capabilities(None).unwrap();
        let is_root = rustix::process::geteuid().is_root()
            && has_net_raw()
            && all.iter().all(|one| sets.effective.contains(*one));
        if !is_root {
            eprintln!("skipped: not root, or a root without the capabilities that this is about");
        }
        is_root
    }

    fn transparent() -> [Result<(), Option<i32>>; 2] {
        ["127.0.0.1:0", "[::1]:0"].map(|address| {
            let Ok(listener) = TcpListener::bind(address) else {
                eprintln!("skipped for {address}: this host has no such address");
                return Err(None);
            };
            set_transparent(listener.as_fd(), address.starts_with('['))
                .map_err(|error| error.raw_os_error())
        })
    }

    #[test]
    fn with_the_right_kept_nobody_may_use_foreign_addresses_and_nothing_else() {
        if !is_root() {
            return;
        }
        let (transparent, sets, has_it, groups) = as_nobody(true, || {
            (
                transparent(),
                rustix::thread::capabilities(None).unwrap(),
                has_net_raw(),
                rustix::thread::set_thread_groups(&[]),
            )
        });
        assert!(has_it);
        assert_eq!(transparent[0], Ok(()));
        assert!(matches!(transparent[1], Ok(()) | Err(None)));
        assert_eq!(sets.permitted, CapabilitySet::NET_RAW);
        assert_eq!(sets.effective, CapabilitySet::NET_RAW);
        assert_eq!(sets.inheritable, CapabilitySet::empty());
        assert_eq!(groups, Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn without_it_the_kernel_refuses() {
        if !is_root() {
            return;
        }
        let (transparent, sets, has_it) = as_nobody(false, || {
            (
                transparent(),
                rustix::thread::capabilities(None).unwrap(),
                has_net_raw(),
            )
        });
        assert!(!has_it);
        assert_eq!(transparent[0], Err(Some(libc::EPERM)));
        assert!(matches!(transparent[1], Err(Some(libc::EPERM) | None)));
        assert_eq!(sets.permitted, CapabilitySet::empty());
    }

    #[test]
    fn whoever_was_started_with_rights_gives_up_what_it_does_not_need() {
        if !is_root() {
            return;
        }
        let after = |keep_net_raw: bool| {
            let thread = std::thread::spawn(move || {
                // As a service manager starts what is not root.
                let nobody = Uid::from_raw(NOBODY);
                let own = CapabilitySet::NET_RAW;
                let sets = CapabilitySets {
                    effective: own,
                    permitted: own,
                    inheritable: own,
                };
                rustix::thread::set_keep_capabilities(true).unwrap();
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                rustix::thread::set_capabilities(None, sets).unwrap();
                rustix::thread::configure_capability_in_ambient_set(own, true).unwrap();
                assert!(has_net_raw());
                give_up_rights(keep_net_raw).unwrap();
                let is_ambient = rustix::thread::capability_is_in_ambient_set(own).unwrap();
                (has_net_raw(), is_ambient)
            });
            thread.join().unwrap()
        };
        assert_eq!(after(false), (false, false));
        assert_eq!(after(true), (true, false));
    }

    #[test]
    fn what_is_not_there_cannot_be_kept() {
        if !is_root() {
            return;
        }
        let error = as_nobody(false, || become_user(NOBODY, NOBODY, true).unwrap_err());
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        // The thread's users are its own: this one still is who it was.
        assert!(UdpSocket::bind("127.0.0.1:0").is_ok() && is_root());
    }
}
