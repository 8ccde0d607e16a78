//! Brokers that ask who we are; with the cargo feature `kafka-tls`, through TLS.

use std::path::PathBuf;
use std::time::Duration;

use span_log::kafka::{KafkaLogin, KafkaOpenError, KafkaSecurity, KafkaTls, SaslMechanism};
use span_log::{KafkaConfig, KafkaLog, Seen, SpanLog};

use super::cluster::{TestTopic, clock, read_as_a_group};
use super::restart::OwnBroker;
use crate::batches::{batch_of, trace};

/// A listener for each way to speak; brokers among themselves speak plainly.
struct Listener {
    name: &'static str,
    protocol: &'static str,
    /// Above the first port, which is that of the script's own look at the broker.
    port: u16,
}

/// Lines of the broker's configuration for these listeners.
fn listening(first_port: u16, listeners: &[Listener]) -> String {
    let each = |write: &dyn Fn(&Listener) -> String| {
        listeners.iter().map(write).collect::<Vec<_>>().join(",")
    };
    let address = |one: &Listener| format!("{}://127.0.0.1:{}", one.name, first_port + one.port);
    let protocols = each(&|one| format!("{}:{}", one.name, one.protocol));
    format!(
        "listeners={addresses},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners={addresses}\n\
         listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT\n",
        addresses = each(&address),
        controller = first_port + 100,
    )
}

/// Users of a listener that asks by SASL: who may log in is `farspan` with `a-secret-pass`.
fn users(listener: &str) -> String {
    let module = "org.apache.kafka.common.security";
    format!(
        "listener.name.{listener}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         listener.name.{listener}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required \
         user_farspan=\"a-secret-pass\";\n\
         listener.name.{listener}.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule \
         required;\n\
         listener.name.{listener}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule \
         required;\n"
    )
}

const PLAIN: Listener = Listener { name: "PLAINTEXT", protocol: "PLAINTEXT", port: 0 };
const SASL: Listener = Listener { name: "SASL", protocol: "SASL_PLAINTEXT", port: 1 };

fn login(mechanism: SaslMechanism, password_file: PathBuf) -> KafkaSecurity {
    let login = KafkaLogin { mechanism, user: "farspan".to_owned(), password_file };
    KafkaSecurity { login: Some(login), ..KafkaSecurity::default() }
}

/// A topic that is reached so.
fn topic(port: u16, security: KafkaSecurity) -> TestTopic {
    let mut topic = TestTopic::unmade(format!("127.0.0.1:{port}"));
    topic.config.security = security;
    topic
}

/// Makes the topic, appends, and reads what was appended.
async fn write_and_read(topic: &TestTopic) {
    topic.create(1).await;
    let log = topic.open().await;
    log.append(batch_of("default", &[1, 2], 10)).await.unwrap();
    let (read, damage) = read_as_a_group(log.as_ref(), 0, 0, 2).await;
    assert!(damage.is_empty(), "{damage:?}");
    let read: std::collections::BTreeSet<_> = read.into_iter().map(|(_, trace)| trace).collect();
    assert_eq!(read, [trace(1), trace(2)].into());
    log.close().await.unwrap();
}

/// What the opening ends with, at the latest when its time is over.
async fn fault_within(topic: &TestTopic, open_timeout: Duration) -> KafkaOpenError {
    let request_timeout = Duration::from_secs(1);
    let config = KafkaConfig { request_timeout, open_timeout, ..topic.config.clone() };
    KafkaLog::open(config, Seen::default(), clock()).await.unwrap_err()
}

/// … where it does not take its time to end.
async fn fault(topic: &TestTopic) -> KafkaOpenError {
    fault_within(topic, Duration::from_secs(60)).await
}

/// … where it is tried again for as long as it may be.
async fn fault_at_last(topic: &TestTopic) -> String {
    let fault = fault_within(topic, Duration::from_secs(3)).await;
    assert!(fault.is_retryable(), "{fault}");
    fault.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_from_a_file_is_taken_and_one_that_is_refused_ends_the_start() {
    let broker = OwnBroker::start_with(|port| {
        let lines = listening(port, &[PLAIN, SASL]);
        vec![("KAFKA_EXTRA", format!("{lines}{}", users("sasl")))]
    });
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, password: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, password).unwrap();
        path
    };
    let port = broker.port + SASL.port;
    let password = file("password", "a-secret-pass\n");
    write_and_read(&topic(port, login(SaslMechanism::Plain, password.clone()))).await;

    let mut guess = topic(port, login(SaslMechanism::Plain, file("guess", "a-guess\n")));
    guess.config.request_timeout = Duration::from_secs(1);
    let refused = fault(&guess).await;
    assert!(matches!(refused, KafkaOpenError::Login(_)), "{refused}");
    assert!(refused.to_string().contains("Invalid username or password"), "{refused}");
    let refused = KafkaLog::members(&guess.config, span_log::port::STORAGE_WRITER).await;
    let refused = refused.unwrap_err();
    assert!(!refused.is_retryable() && !refused.to_string().contains("a-guess"), "{refused}");
    fault_at_last(&topic(port, KafkaSecurity::default())).await;
    let missing = topic(port, login(SaslMechanism::Plain, files.path().join("nothing")));
    let missing = fault(&missing).await.to_string();
    assert!(missing.contains("nothing with sasl.password cannot be read"), "{missing}");

    let encrypted = KafkaSecurity { tls: Some(KafkaTls::default()), login: None };
    for security in [login(SaslMechanism::ScramSha512, password), encrypted] {
        let fault = fault_within(&topic(port, security), Duration::from_secs(3)).await.to_string();
        let is_lacking = fault.contains("made without the cargo feature `kafka-tls`");
        assert_eq!(is_lacking, !cfg!(feature = "kafka-tls"), "{fault}");
    }
}

#[cfg(feature = "kafka-tls")]
#[path = "../../../../../tests/engines/authority.rs"]
mod authority;

/// `cargo test --features kafka-tls --workspace --test engines kafka::security`
#[cfg(feature = "kafka-tls")]
mod encrypted {
    use super::authority::Authority;
    use super::*;

    const TLS: Listener = Listener { name: "TLS", protocol: "SSL", port: 2 };
    const ASKING: Listener = Listener { name: "ASKING", protocol: "SSL", port: 3 };
    const BOTH: Listener = Listener { name: "BOTH", protocol: "SASL_SSL", port: 4 };

    fn settings(authority: &Authority, port: u16) -> Vec<(&'static str, String)> {
        let identity = authority.identity(&["127.0.0.1"]);
        let [key, certificate] = [&identity.key_file, &identity.certificate_file]
            .map(|file| std::fs::read_to_string(file).unwrap());
        let keys = authority.file("keys.pem", &format!("{key}{certificate}"));
        let lines = listening(port, &[PLAIN, SASL, TLS, ASKING, BOTH]);
        let files = format!(
            "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\n\
             ssl.truststore.location={}\nlistener.name.asking.ssl.client.auth=required\n",
            keys.display(),
            authority.believed().ca_file.display()
        );
        let scram = "SCRAM-SHA-512=[name=farspan,password=a-secret-pass]";
        vec![
            ("KAFKA_EXTRA", format!("{lines}{files}{}{}", users("sasl"), users("both"))),
            ("KAFKA_FORMAT_EXTRA", format!("--add-scram {scram}")),
        ]
    }

    fn believing(authority: &Authority) -> KafkaTls {
        KafkaTls { ca_file: Some(authority.believed().ca_file), identity: None }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn brokers_are_believed_by_the_authority_that_is_named_alone() {
        let authority = Authority::new();
        let broker = OwnBroker::start_with(|port| settings(&authority, port));
        let at = |listener: &Listener, tls, security: KafkaSecurity| {
            topic(broker.port + listener.port, KafkaSecurity { tls, ..security })
        };
        let plain = KafkaSecurity::default;
        write_and_read(&at(&TLS, Some(believing(&authority)), plain())).await;
        let stranger = fault_at_last(&at(&TLS, Some(believing(&Authority::new())), plain())).await;
        assert!(stranger.contains("certificate verify failed"), "{stranger}");
        let stranger = fault_at_last(&at(&TLS, Some(KafkaTls::default()), plain())).await;
        assert!(stranger.contains("certificate verify failed"), "{stranger}");
        let mut elsewhere = at(&TLS, Some(believing(&authority)), plain());
        elsewhere.config.brokers = vec![format!("localhost:{}", broker.port + TLS.port)];
        let elsewhere = fault_at_last(&elsewhere).await;
        assert!(elsewhere.contains("certificate verify failed"), "{elsewhere}");

        let identity = authority.identity(&["a-client"]);
        let identity = Some((identity.certificate_file, identity.key_file));
        let showing = KafkaTls { identity, ..believing(&authority) };
        write_and_read(&at(&ASKING, Some(showing), plain())).await;
        fault_at_last(&at(&ASKING, Some(believing(&authority)), plain())).await;

        let password = authority.file("password", "a-secret-pass\n");
        let scram = login(SaslMechanism::ScramSha512, password);
        write_and_read(&at(&BOTH, Some(believing(&authority)), scram.clone())).await;
        write_and_read(&at(&SASL, None, scram)).await;
        let guess = login(SaslMechanism::ScramSha512, authority.file("guess", "a-guess\n"));
        let refused = fault(&at(&BOTH, Some(believing(&authority)), guess)).await;
        assert!(matches!(refused, KafkaOpenError::Login(_)), "{refused}");
    }
}
