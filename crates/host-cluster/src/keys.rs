//! The keys of a cluster: certificates and kubeconfigs, made by kubeadm, and who is given which.

use std::{fs, io, os::unix::fs::PermissionsExt};

use crate::{
    Error, Result, addons,
    configure::USERS,
    failed,
    place::{API_PORT, Member, Place},
    tools::Tools,
};

/// Makes all certificates and kubeconfigs.
pub(crate) fn make(tools: &Tools<'_>) -> Result<()> {
    let config = addons::kubeadm_file(tools.place);
    let config = config.to_string_lossy();
    tools.kubeadm(
        &["init", "phase", "certs", "all", "--config", &config],
        "making certificates",
    )?;
    std::thread::scope(|scope| {
        let all = USERS.map(|(file, user, organizations)| {
            let config = &config;
            scope.spawn(move || {
                let mut arguments = vec![
                    "kubeconfig",
                    "user",
                    "--config",
                    config,
                    "--client-name",
                    user,
                ];
                for organization in organizations {
                    arguments.extend(["--org", organization]);
                }
                let text = tools.kubeadm(&arguments, "making a kubeconfig")?;
                let path = tools.place.keys().join(format!("{file}.conf"));
                fs::write(path, text).map_err(failed("cannot write a kubeconfig"))
            })
        });
        all.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| {
                Err(Error::Step {
                    what: "making a kubeconfig".to_owned(),
                    reason: "its thread ended".to_owned(),
                })
            })
        })
    })
}

/// Copies to each member the keys that it needs.
pub(crate) fn hand_out(place: &Place, member: Member) -> io::Result<()> {
    let (keys, to) = (place.keys(), place.root(member).join("etc/kubernetes"));
    let pki = to.join("pki");
    fs::create_dir_all(&pki)?;
    if member == Member::ControlPlane {
        for entry in fs::read_dir(&keys)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && entry.path().extension().is_some_and(|e| e != "conf")
            {
                fs::copy(entry.path(), pki.join(entry.file_name()))?;
            }
        }
        for user in ["controller-manager.conf", "scheduler.conf"] {
            fs::copy(keys.join(user), to.join(user))?;
        }
        return Ok(());
    }
    fs::copy(keys.join("ca.crt"), pki.join("ca.crt"))?;
    fs::copy(keys.join(format!("{member}.conf")), to.join("kubelet.conf"))?;
    for user in ["kube-proxy.conf", "network-policies.conf"] {
        fs::copy(keys.join(user), to.join(user))?;
    }
    Ok(())
}

/// Writes the administrator's kubeconfig with the address that this machine uses.
pub(crate) fn write_kubeconfig(place: &Place, port: u16) -> io::Result<()> {
    let text = fs::read_to_string(place.keys().join("admin.conf"))?;
    let inside = format!("https://{}:{API_PORT}", Member::ControlPlane.address());
    let path = place.kubeconfig();
    fs::write(
        &path,
        text.replace(&inside, &format!("https://127.0.0.1:{port}")),
    )?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}
