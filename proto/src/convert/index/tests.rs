use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use trace_model::location::RegionState;
use trace_model::{Forgotten, TraceEntry};

use super::*;

fn region() -> Region {
    Region::new("eu-west-1").unwrap()
}

fn span_id() -> impl Strategy<Value = SpanId> {
    (1_u8..9).prop_map(|byte| SpanId::from_bytes([byte; 8]).unwrap())
}

fn service() -> impl Strategy<Value = Arc<str>> {
    "[a-c]{1,2}".prop_map(|name| Arc::from(name.as_str()))
}

fn root() -> impl Strategy<Value = RootSpan> {
    (span_id(), service(), "[a-z ]{0,9}", any::<u32>(), any::<bool>()).prop_map(
        |(span_id, service, operation, number, is_error)| RootSpan {
            service,
            operation: operation.as_str().into(),
            start: UnixNanos(u64::from(number)),
            span_id,
            duration_nanos: u64::from(number) * 7,
            is_error,
        },
    )
}

fn entry() -> impl Strategy<Value = EntrySpan> {
    (span_id(), span_id(), service(), any::<u32>()).prop_map(
        |(span_id, parent_span_id, service, number)| EntrySpan {
            span_id,
            parent_span_id,
            service,
            start: UnixNanos(u64::from(number)),
            duration_nanos: 3,
            is_error: number % 2 == 0,
        },
    )
}

fn detail() -> impl Strategy<Value = Detail> {
    let services = vec((service(), 1_u32..9, 0_u32..2), 0..4);
    (services, proptest::option::of(root()), vec(entry(), 0..4), any::<u32>(), 0_u32..9).prop_map(
        |(services, root, mut entries, start, count)| {
            let mut services: Vec<_> = services
                .into_iter()
                .map(|(service, spans, errors)| ServiceCount { service, spans, errors })
                .collect();
            services.sort();
            services.dedup_by(|next, kept| next.service == kept.service);
            entries.sort();
            Detail {
                min_start: UnixNanos(u64::from(start)),
                max_end: UnixNanos(u64::from(start) + 5),
                span_count: count,
                error_count: count / 2,
                is_lower_bound: count == 3,
                services,
                root,
                entries,
            }
        },
    )
}

fn contribution() -> impl Strategy<Value = Contribution> {
    (proptest::option::of(detail()), any::<u64>(), any::<u32>(), 0_u8..3, any::<bool>()).prop_map(
        |(detail, version, partition, keep, is_erased)| Contribution {
            version,
            tenant: TenantId::new("team-a").unwrap(),
            trace_id: TraceId::from_bytes([7; 16]).unwrap(),
            writer: WriterId { region: region(), incarnation: version / 2, partition },
            last_append: UnixNanos(version / 3),
            keep: [Keep::Pending, Keep::SampledOut, Keep::Keep][usize::from(keep)],
            is_erased,
            detail,
        },
    )
}

fn wire_of(contribution: &Contribution) -> (v1::Contribution, ServiceDictionary) {
    let mut services = ServiceDictionary::default();
    let wire = contribution_to_wire(contribution, &mut |service| services.intern(service).0);
    (wire, services)
}

proptest! {
    #[test]
    fn contributions_come_back_as_they_were_sent(sent in contribution()) {
        let (wire, services) = wire_of(&sent);
        prop_assert_eq!(contribution_from_wire(wire, &region(), &services), Ok(sent));
    }

    #[test]
    fn entries_come_back_with_services_spelled_out(rows in vec(contribution(), 0..4)) {
        let mut sent = TraceEntry::default();
        for row in rows {
            sent.join(row);
        }
        let id = TraceId::from_bytes([7; 16]).unwrap();
        let wire = look_up_entry_to_wire(id, &sent);
        prop_assert_eq!(look_up_entry_from_wire(wire), Ok((id, sent)));
    }

    #[test]
    fn any_bytes_are_a_contribution_or_an_error(noise in vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = <v1::Contribution as prost::Message>::decode(&*noise) {
            drop(contribution_from_wire(wire, &region(), &ServiceDictionary::default()));
        }
    }
}

fn plain() -> v1::Contribution {
    v1::Contribution {
        tenant: "default".to_owned(),
        trace_id: Bytes::from_static(&[1; 16]),
        detail: Some(v1::Detail {
            services: vec![v1::ServiceCount { service: 3, spans: 1, errors: 0 }],
            ..v1::Detail::default()
        }),
        ..v1::Contribution::default()
    }
}

#[test]
fn what_is_wrong_is_named() {
    let none = ServiceDictionary::default();
    let read = |wire| contribution_from_wire(wire, &region(), &none).unwrap_err();
    assert_eq!(read(plain()), InvalidIndexMessage::UnknownService(3));
    let short = v1::Contribution { trace_id: Bytes::from_static(&[1; 3]), ..plain() };
    assert_eq!(
        read(v1::Contribution { detail: None, ..short }).to_string(),
        "`trace_id` is not an id"
    );
    let keep = v1::Contribution { keep: 9, ..plain() };
    assert_eq!(read(keep), InvalidIndexMessage::Value { field: "keep", value: 9 });
    let many = v1::Detail { entries: vec![v1::EntrySpan::default(); 33], ..v1::Detail::default() };
    let many = v1::Contribution { detail: Some(many), ..plain() };
    assert_eq!(read(many), InvalidIndexMessage::TooLong { field: "entries", found: 33, max: 32 });
    let backwards = v1::Detail { min_start_unix_nano: 2, ..v1::Detail::default() };
    let backwards = v1::Contribution { detail: Some(backwards), ..plain() };
    assert_eq!(
        read(backwards),
        InvalidIndexMessage::Value { field: "max_end_unix_nano", value: 0 }
    );
}

#[test]
fn an_id_has_one_name_and_ids_come_in_order() {
    let mut services = ServiceDictionary::default();
    assert_eq!(services.define(0, "web"), Ok(true));
    assert_eq!(services.define(0, "web"), Ok(false));
    assert_eq!(services.define(0, "cart"), Err(InvalidIndexMessage::Redefined(0)));
    let far = InvalidIndexMessage::Value { field: "service_name.id", value: 7 };
    assert_eq!(services.define(7, "cart"), Err(far));
}

#[test]
fn watermarks_come_back_as_they_were_sent() {
    let sent = Watermark {
        region: region(),
        incarnation: 4,
        as_of: UnixNanos(9),
        next: BTreeMap::from([(0, 5), (3, 1)]),
        holes: vec![TimeRange { start: UnixNanos(1), end: UnixNanos(2) }],
    };
    assert_eq!(watermark_from_wire(&watermark_to_wire(&sent), &region()), Ok(sent));
    let hole = v1::Hole { start_unix_nano: 1, end_unix_nano: 2 };
    let rotten = v1::Watermark { holes: vec![hole; 9_000], ..v1::Watermark::default() };
    assert_eq!(watermark_from_wire(&rotten, &region()).unwrap().holes.len(), 9_000);
    let backwards = v1::Hole { start_unix_nano: 2, end_unix_nano: 1 };
    let bad = v1::Watermark { holes: vec![backwards], ..v1::Watermark::default() };
    assert!(watermark_from_wire(&bad, &region()).is_err());
}

#[test]
fn summary_queries_come_back_and_backward_ranges_do_not() {
    let wire = v1::ListSummariesRequest {
        tenant: "default".to_owned(),
        start_unix_nano: 1,
        end_unix_nano: 9,
        root_service: "web".to_owned(),
        max_duration_nanos: 4,
        limit: 20,
        ..v1::ListSummariesRequest::default()
    };
    let query = summary_query_from_wire(&wire).unwrap();
    assert_eq!((&query.service, query.duration_nanos_max), (&None, Some(4)));
    assert_eq!(summary_query_to_wire(&query), wire);
    let bad = v1::ListSummariesRequest { end_unix_nano: 0, ..wire };
    assert!(summary_query_from_wire(&bad).is_err());
}

#[test]
fn a_regions_state_comes_back_as_it_was_sent() {
    for (retention, expired, evicted) in
        [(None, None, None), (Some(7), Some(3), None), (Some(1), Some(0), Some(9))]
    {
        let sent = RegionState {
            region: region(),
            cursor: None,
            watermark: None,
            silent: Duration::from_millis(5),
            is_connected: true,
            lag_records: 6,
            lag: Duration::from_millis(7),
            retention: retention.map(Duration::from_secs),
            kept_for: Duration::from_secs(1),
            forgotten: Forgotten {
                expired_until: expired.map(UnixNanos),
                evicted_until: evicted.map(UnixNanos),
            },
            rows_without_detail: 8,
            is_refused: true,
        };
        assert_eq!(region_state_from_wire(&region_state_to_wire(&sent)), Ok(sent));
    }
    let older = v1::RegionState { region: "eu-west-1".to_owned(), ..v1::RegionState::default() };
    let read = region_state_from_wire(&older).unwrap();
    assert_eq!((read.retention, read.forgotten), (None, Forgotten::default()));
}

#[test]
fn services_beyond_the_bound_share_a_name_and_their_counts_are_added() {
    let mut services = ServiceDictionary::default();
    let name = |number: usize| -> Arc<str> { format!("service-{number}").into() };
    for number in 0..50_000 {
        assert_eq!(services.intern(&name(number)), (u32::try_from(number).unwrap(), true));
    }
    assert_eq!(services.intern(&name(60_000)), (50_000, true));
    assert_eq!(services.intern(&name(60_001)), (50_000, false));
    assert_eq!(services.intern(&name(7)), (7, false));
    assert_eq!(&*services.name_of(50_000).unwrap(), OTHER_SERVICE);

    let counts = [7, 60_000, 60_001].map(|number| ServiceCount {
        service: name(number),
        spans: 2,
        errors: 1,
    });
    let contribution = Contribution {
        version: 1,
        tenant: TenantId::default(),
        trace_id: TraceId::from_bytes([7; 16]).unwrap(),
        writer: WriterId { region: region(), incarnation: 1, partition: 0 },
        last_append: UnixNanos(1),
        keep: Keep::Keep,
        is_erased: false,
        detail: Some(Detail { services: counts.into(), ..Detail::default() }),
    };
    let wire = contribution_to_wire(&contribution, &mut |name| services.intern(name).0);
    let counts = wire.detail.unwrap().services;
    let counts: Vec<_> = counts.iter().map(|c| (c.service, c.spans, c.errors)).collect();
    assert_eq!(counts, [(7, 2, 1), (50_000, 4, 2)]);
}
