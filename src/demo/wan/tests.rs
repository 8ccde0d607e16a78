//! Tests of the distance between regions.

use service_kit::Drain;

use super::*;

/// Answers every byte with itself, and ends when the other side ends.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    drop(tasks.clone().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(tasks.spawn(async move {
                let (mut read, mut write) = stream.into_split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            }));
        }
    }));
    address
}

async fn connect(round_trip: Duration) -> (TcpStream, Drain) {
    let drain = Drain::default();
    let proxy = start_proxy(echo().await, round_trip, &drain.stage("wan")).await.unwrap();
    (TcpStream::connect(proxy).await.unwrap(), drain)
}

async fn ping(stream: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    begun.elapsed()
}

#[tokio::test]
async fn a_round_trip_takes_what_was_configured_and_a_handshake_one_more() {
    let round_trip = Duration::from_millis(60);
    let (mut stream, _drain) = connect(round_trip).await;
    let first = ping(&mut stream).await;
    assert!(first >= round_trip * 2, "{first:?}");
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        fastest = fastest.min(ping(&mut stream).await);
    }
    assert!(fastest >= round_trip && fastest < round_trip * 2, "{fastest:?}");
}

#[tokio::test]
async fn bytes_arrive_whole_in_order_and_overlapped() {
    let round_trip = Duration::from_millis(100);
    let (stream, _drain) = connect(round_trip).await;
    let (mut read, mut write) = stream.into_split();
    let sent: Vec<u8> = (0_u32..2_000_000).flat_map(u32::to_le_bytes).collect();
    let begun = Instant::now();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let reading = read.read_to_end(&mut received);
    let ((), count) = tokio::join!(sending, reading);
    assert_eq!(count.unwrap(), sent.len());
    assert!(received == sent);
    // A line that sent one piece a round trip would need 12 s for these 122 pieces.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_end_and_a_refusal_propagate() {
    let (mut stream, _drain) = connect(Duration::from_millis(10)).await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let drain = Drain::default();
    let proxy = start_proxy(nobody, Duration::ZERO, &drain.stage("wan")).await.unwrap();
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn stopping_cuts_what_is_under_way() {
    let (mut stream, drain) = connect(Duration::from_millis(10)).await;
    ping(&mut stream).await;
    drain.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}

#[test]
fn distances_are_those_of_the_cities_both_ways() {
    let region = |name: &str| Region::new(name).unwrap();
    let (eu, us, ap) = (region("eu-west-1"), region("us-east-1"), region("ap-southeast-1"));
    let millis = |one: &Region, other: &Region| WanMode::Real.round_trip(one, other).as_millis();
    assert_eq!((millis(&eu, &us), millis(&us, &ap), millis(&eu, &ap)), (80, 150, 220));
    assert_eq!((millis(&us, &eu), millis(&eu, &eu)), (80, 0));
    assert_eq!(millis(&eu, &region("eu-north-1")), 30);
    assert_eq!(millis(&eu, &region("moon")), 180);
    assert_eq!(WanMode::Off.round_trip(&eu, &ap), Duration::ZERO);
}
