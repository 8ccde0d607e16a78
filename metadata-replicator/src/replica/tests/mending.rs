//! A region that lost its disk gets its own log back from the others.

use trace_model::location::{Cursor, Epoch};

use super::*;

/// A region's log that its own replicator lost, and a peer's replicator that holds it.
async fn held_by_a_peer(directory: &std::path::Path, rows: u8) -> (Process, Arc<Replica>) {
    let log = memory_log("eu-west-1");
    let cell = Process::serve(vec![log.clone()], None).await;
    let peer = open("us-east-1", &directory.join("peer"), &[("eu-west-1", cell.url())]);
    let process = Process::serve(vec![], Some(&peer)).await;
    let written: Vec<_> = (1..=rows).map(|trace| row("eu-west-1", trace, 3)).collect();
    log.append(&written, Some(&watermark("eu-west-1", 3))).await.unwrap();
    until("the peer has it", || state_of(&peer).cursor == log.end()).await;
    cell.stop().await;
    (process, peer)
}

fn state_of(replica: &Replica) -> RegionState {
    let states = replica.list_regions();
    states.into_iter().find(|state| state.region == region("eu-west-1")).unwrap()
}

#[tokio::test]
async fn a_replicator_that_lost_its_regions_log_takes_it_back_and_gives_it_to_the_cell() {
    let directory = tempfile::tempdir().unwrap();
    let (peer_process, peer) = held_by_a_peer(directory.path(), 50).await;
    let cell = Process::serve(vec![], None).await;
    let origins = [("eu-west-1", cell.url()), ("us-east-1", peer_process.url())];
    let own = open("eu-west-1", &directory.path().join("own"), &origins);
    let own_process = Process::serve(vec![], Some(&own)).await;

    let log = memory_log("eu-west-1");
    let from = ReplicatorPeer { url: own_process.url(), dialer: Arc::new(TcpDialer) };
    let recovered = tokio::time::timeout(PATIENCE, async {
        loop {
            match from.give_back(log.as_ref()).await {
                Ok(recovered) => return recovered,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let recovered = recovered.await.expect("the log is given back");
    assert_eq!((recovered.rows, recovered.is_behind), (50, true));
    assert_eq!(recovered.watermark.unwrap().next, [(0, 3)].into());
    assert_eq!(own.digest(), peer.digest());
    for process in [own_process, cell, peer_process] {
        process.stop().await;
    }
}

#[tokio::test]
async fn a_log_that_is_being_taken_back_is_not_served_as_if_it_were_empty() {
    let directory = tempfile::tempdir().unwrap();
    // A peer that takes the connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let cell = Process::serve(vec![], None).await;
    let origins = [("eu-west-1", cell.url()), ("us-east-1", url)];
    let own = open("eu-west-1", directory.path(), &origins);
    let process = Process::serve(vec![], Some(&own)).await;
    let log = memory_log("eu-west-1");
    let from = ReplicatorPeer { url: process.url(), dialer: Arc::new(TcpDialer) };
    let refused = from.give_back(log.as_ref()).await;
    assert!(refused.as_ref().is_err_and(ReplicatorError::is_retryable), "{refused:?}");
    assert_eq!(log.history().missing(), None);
    process.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn a_reader_shows_a_restored_log_what_it_lacks_and_the_log_takes_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let files = |name: &str| {
        let config = OriginLogConfig::new(directory.path().join(name), region("eu-west-1"));
        OriginLog::open(config, clock(), Entropy::seeded(1)).unwrap()
    };
    let log = Arc::new(files("origin"));
    let early: Vec<_> = (1..20).map(|trace| row("eu-west-1", trace, 3)).collect();
    log.append(&early, Some(&watermark("eu-west-1", 3))).await.unwrap();
    let copy = directory.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(directory.path().join("origin")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let late: Vec<_> = (10..30).map(|trace| row("eu-west-1", trace, 8)).collect();
    log.append(&late, Some(&watermark("eu-west-1", 8))).await.unwrap();
    let cell = Process::serve(vec![log.clone()], None).await;
    let replica_at = directory.path().join("replica");
    let replica = open("us-east-1", &replica_at, &[("eu-west-1", cell.url())]);
    let process = Process::serve(vec![], Some(&replica)).await;
    until("all of it", || state_of(&replica).cursor == log.end()).await;
    cell.stop().await;
    process.stop().await;
    let digest = replica.digest();
    drop((log, replica));

    let log = Arc::new(files("copy"));
    assert_eq!(log.history().missing(), None);
    let cell = Process::serve(vec![log.clone()], None).await;
    let replica = open("us-east-1", &replica_at, &[("eu-west-1", cell.url())]);
    let process = Process::serve(vec![], Some(&replica)).await;
    until("the loss is noticed", || log.history().missing().is_some()).await;
    let from = ReplicatorPeer { url: process.url(), dialer: Arc::new(TcpDialer) };
    let recovered = from.give_back(log.as_ref()).await.unwrap();
    assert_eq!((recovered.is_behind, recovered.rows), (true, late.len()));
    assert_eq!(recovered.watermark.as_ref().unwrap().next, [(0, 8)].into());
    let keys: Vec<_> = late.iter().map(RowKey::of).collect();
    assert!(log.own_rows(&keys).await.unwrap().into_iter().flatten().eq(late));
    log.append(&[], recovered.watermark.as_ref()).await.unwrap();
    log.note_mended(recovered.end).await.unwrap();
    assert_eq!(log.history().missing(), None);
    until("level again", || state_of(&replica).cursor == log.end()).await;
    assert_eq!(replica.digest(), digest, "mending changed nothing");

    let again = from.give_back(log.as_ref()).await.unwrap();
    assert!(!again.is_behind, "{again:?}");
    process.stop().await;
    cell.stop().await;
}

#[tokio::test]
async fn a_loss_that_was_not_mended_is_known_when_the_log_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let config = OriginLogConfig::new(directory.path(), region("eu-west-1"));
        OriginLog::open(config, clock(), Entropy::seeded(1)).unwrap()
    };
    let log = open();
    let lost = Cursor { epoch: Epoch { millis: 5, random: 7 }, sequence: 9 };
    // It goes on before anyone shows that something is missing, and is opened again.
    log.append(&[row("eu-west-1", 1, 1)], None).await.unwrap();
    let own = log.end().unwrap();
    drop(log);
    let log = open();
    log.outrun(own).await.unwrap();
    assert_eq!(log.history().missing(), None, "its own reader of before");
    log.outrun(lost).await.unwrap();
    assert_eq!(log.history().missing(), Some(lost));
    drop(log);
    let log = open();
    assert_eq!(log.history().missing(), Some(lost));
    log.note_mended(Some(lost)).await.unwrap();
    drop(log);
    let log = open();
    log.outrun(lost).await.unwrap();
    assert_eq!(log.history().missing(), None, "a late reader of what was taken back");
}
