//! Real `ssh` and `scp` through both proxies.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::agent_process::{Program, expose, forward, relay};
use super::require::require;

/// Size of the file in MiB, unless `MIDSPAN_SCP_MIB` says another one.
const FILE_MIB: usize = 64;

fn file_bytes() -> usize {
    let mib = env::var("MIDSPAN_SCP_MIB").map_or(FILE_MIB, |mib| mib.parse().expect("a number"));
    mib << 20
}

/// Makes a key pair at `path`.
pub(crate) fn make_key(ssh_keygen: &Path, path: &Path) {
    let status = Command::new(ssh_keygen)
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status();
    assert!(status.expect("it runs").success());
}

/// An SSH server for the user of this test: one `sshd -i` a connection, so that
/// it needs no port of its own.
pub(crate) fn ssh_server(sshd: &Path, folder: &Path) -> SocketAddr {
    // Where a root sshd separates its privileges; others do without.
    let _ = fs::create_dir_all("/run/sshd");
    let config = folder.join("sshd_config");
    let shown = folder.display();
    fs::write(
        &config,
        format!(
            "HostKey {shown}/host_key\nAuthorizedKeysFile {shown}/client_key.pub\n\
             StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n"
        ),
    )
    .expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let sshd = sshd.to_owned();
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let output = connection.try_clone().expect("a second handle");
            let mut server = Command::new(&sshd)
                .args(["-i", "-e", "-f"])
                .arg(&config)
                .stdin(Stdio::from(OwnedFd::from(connection)))
                .stdout(Stdio::from(OwnedFd::from(output)))
                .stderr(Stdio::null())
                .spawn()
                .expect("it runs");
            thread::spawn(move || server.wait());
        }
    });
    address
}

#[test]
fn ssh_and_scp_go_through() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    check_ssh_and_scp(folder, |target| {
        let (relay, address) = relay(folder, "127.0.0.1:0", &[]);
        let (expose, ticket) = expose(folder, address, &[target]);
        let (forward, local) = forward(&ticket);
        (vec![forward, expose, relay], local)
    });
}

/// Has `ssh` and `scp` reach an SSH server by the local port that `lead` gives, which leads to
/// it by these programs.
pub(crate) fn check_ssh_and_scp(
    folder: &Path,
    lead: impl FnOnce(&str) -> (Vec<Program>, SocketAddr),
) {
    let (Some(ssh), Some(scp), Some(sshd), Some(ssh_keygen)) = (
        require("ssh"),
        require("scp"),
        require("sshd"),
        require("ssh-keygen"),
    ) else {
        return;
    };
    make_key(&ssh_keygen, &folder.join("host_key"));
    make_key(&ssh_keygen, &folder.join("client_key"));
    let target = ssh_server(&sshd, folder).to_string();
    let (programs, local) = lead(&target);

    let host_key = fs::read_to_string(folder.join("host_key.pub")).expect("a key");
    let known = format!("[127.0.0.1]:{} {host_key}", local.port());
    fs::write(folder.join("known_hosts"), known).expect("written");
    let config = folder.join("ssh_config");
    fs::write(
        &config,
        format!(
            "Host there\nHostName 127.0.0.1\nPort {port}\nIdentityFile {shown}/client_key\n\
             IdentitiesOnly yes\nUserKnownHostsFile {shown}/known_hosts\n\
             StrictHostKeyChecking yes\nBatchMode yes\n",
            port = local.port(),
            shown = folder.display(),
        ),
    )
    .expect("written");

    let output = Command::new(ssh)
        .arg("-F")
        .arg(&config)
        .args(["there", "echo through; cat"])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "through\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let mut content = vec![0; file_bytes()];
    fastrand::Rng::with_seed(7).fill(&mut content);
    let there = folder.join("there");
    File::create(folder.join("here"))
        .and_then(|mut file| file.write_all(&content))
        .expect("written");
    for (from, to) in [
        ("here".to_owned(), format!("there:{}", there.display())),
        (format!("there:{}", there.display()), "back".to_owned()),
    ] {
        let status = Command::new(&scp)
            .current_dir(folder)
            .args(["-q", "-F"])
            .arg(&config)
            .args([from, to])
            .status();
        assert!(status.expect("it runs").success());
    }
    for copy in ["there", "back"] {
        let copied = fs::read(folder.join(copy)).expect("copied");
        assert!(copied == content, "{copy} differs");
    }
    for program in programs {
        assert!(program.stop().success());
    }
}
