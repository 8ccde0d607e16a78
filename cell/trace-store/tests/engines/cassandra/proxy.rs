//! A door in front of the cluster: open, shut, or open with nobody behind it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the door does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Door {
    Shut,
    Hanging,
    Open(String),
}

/// A proxy on a port of its own.
pub(crate) struct Proxy {
    address: String,
    door: watch::Sender<Door>,
    before: Mutex<Option<Door>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (door, doors) = watch::channel(Door::Shut);
        let task = tokio::task::spawn(accept(listener, doors));
        Self { address, door, before: Mutex::default(), task }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn open(&self, target: &str) {
        self.door.send_replace(Door::Open(target.to_owned()));
    }

    /// Breaks all connections off and takes none.
    pub(crate) fn close(&self) {
        self.door.send_replace(Door::Shut);
    }

    /// Keeps connections and lets no byte through.
    pub(crate) fn hang(&self) {
        *self.before.lock().unwrap() = Some(self.door.send_replace(Door::Hanging));
    }

    pub(crate) fn release(&self) {
        self.door.send_replace(self.before.lock().unwrap().take().unwrap());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, doors: watch::Receiver<Door>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(pass(stream, doors.clone()));
    }
}

async fn pass(mut client: TcpStream, mut doors: watch::Receiver<Door>) {
    let target = loop {
        let door = doors.borrow_and_update().clone();
        match door {
            Door::Shut => return,
            Door::Open(target) => break target,
            Door::Hanging => doors.changed().await.unwrap(),
        }
    };
    let Ok(mut server) = TcpStream::connect(&target).await else { return };
    let doors = Arc::new(tokio::sync::Mutex::new(doors));
    loop {
        let door = doors.lock().await.borrow().clone();
        match door {
            Door::Shut => {
                drop(client.shutdown().await);
                return;
            }
            Door::Hanging => {
                if doors.lock().await.changed().await.is_err() {
                    return;
                }
            }
            Door::Open(_) => {
                let mut doors = doors.lock().await;
                tokio::select! {
                    _ = doors.changed() => {}
                    copied = tokio::io::copy_bidirectional(&mut client, &mut server) => {
                        drop(copied);
                        return;
                    }
                    () = tokio::time::sleep(Duration::from_secs(600)) => return,
                }
            }
        }
    }
}
