//! One of two stores fails, stands or is silent: the other answers, and nothing is claimed that neither has.

use async_trait::async_trait;
use trace_model::query::Literal;
use trace_model::{TraceId, UnixNanos};

use super::*;

/// How a store answers.
#[derive(Clone, Debug)]
enum Mood {
    /// With this cover.
    Well(u64),
    Fails(StoreError),
    /// Never.
    Silent,
}

/// A store whose lists name itself.
#[derive(Debug)]
struct Told {
    name: &'static str,
    mood: Mutex<Mood>,
}

impl Told {
    fn new(name: &'static str, next: u64) -> Arc<Self> {
        Arc::new(Self { name, mood: Mutex::new(Mood::Well(next)) })
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn searcher(self: &Arc<Self>) -> Searcher {
        Searcher { search: Arc::clone(self) as _, catalog: Arc::clone(self) as _ }
    }

    async fn cover(&self) -> Result<Coverage, StoreError> {
        let mood = self.mood.lock().unwrap().clone();
        match mood {
            Mood::Well(next) => {
                let mut covered = Coverage::none(7);
                covered.extend(0, next);
                Ok(covered)
            }
            Mood::Fails(error) => Err(error),
            Mood::Silent => std::future::pending().await,
        }
    }
}

#[async_trait]
impl TraceSearch for Told {
    async fn search(&self, _: &SearchQuery) -> Result<SearchAnswer, StoreError> {
        let covered = self.cover().await?;
        Ok(SearchAnswer {
            matches: Vec::new(),
            stats: trace_model::query::SearchStats::default(),
            covered,
            is_damaged: false,
            is_away: false,
            expired_until: None,
        })
    }
}

#[async_trait]
impl ServiceCatalog for Told {
    async fn services(&self, _: &TenantId, _: TimeRange) -> Result<NameList<Arc<str>>, StoreError> {
        self.cover().await?;
        Ok(NameList::whole(vec![self.name.into()]))
    }

    async fn operations(
        &self,
        _: &TenantId,
        _: &str,
        _: TimeRange,
    ) -> Result<NameList<Operation>, StoreError> {
        self.cover().await?;
        Ok(NameList::default())
    }

    async fn listed(&self) -> Result<Coverage, StoreError> {
        self.cover().await
    }
}

/// Tables that cover 10 records, and an index that covers 20, of which the pair has not heard yet.
fn pair() -> (Arc<Told>, Arc<Told>, StandIn) {
    let (tables, index) = (Told::new("tables", 10), Told::new("index", 20));
    let metrics = StandInMetrics::default();
    let pair = StandIn::new(tables.searcher(), index.searcher(), false, metrics);
    (tables, index, pair)
}

fn away() -> Mood {
    Mood::Fails(StoreError::Unavailable("it is away".to_owned()))
}

fn refuses() -> Mood {
    Mood::Fails(StoreError::Unsupported("it names no service".to_owned()))
}

fn equals(field: Field, text: &str) -> Filter {
    Filter::Compare { field, op: CompareOp::Eq, literal: Literal::Text(text.to_owned()) }
}

fn query(filter: Filter) -> SearchQuery {
    let before = Some((UnixNanos(1), TraceId::try_from(&[1_u8; 16][..]).unwrap()));
    SearchQuery { tenant: TenantId::default(), filter, range: TimeRange::ALL, limit: 9, before }
}

fn by_service() -> SearchQuery {
    query(equals(Field::Service, "web"))
}

fn by_error() -> SearchQuery {
    query(Filter::And(vec![equals(Field::Service, "web"), equals(Field::Status, "error")]))
}

/// Whose answer it is, by its cover.
async fn who(pair: &StandIn, query: &SearchQuery) -> Result<u64, String> {
    let answer = pair.search(query).await.map_err(|error| error.to_string())?;
    Ok(answer.covered.next_in(7, 0))
}

#[test]
fn services_and_operations_alone_are_asked_of_the_tables() {
    let (service, operation) = (equals(Field::Service, "web"), equals(Field::Operation, "GET /"));
    assert!(is_by_name(&service));
    assert!(is_by_name(&Filter::And(vec![Filter::All, service.clone(), operation.clone()])));
    let not = Filter::Not(Box::new(service.clone()));
    for others in [
        Filter::All,
        operation,
        Filter::Or(vec![service.clone()]),
        not,
        Filter::And(vec![service.clone(), service.clone()]),
        Filter::And(vec![service.clone(), equals(Field::Status, "error")]),
        Filter::And(vec![service, Filter::Exists(Field::Status)]),
    ] {
        assert!(!is_by_name(&others), "{others:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_answers_what_it_is_best_at_and_for_the_other_where_that_one_fails() {
    let (tables, index, pair) = pair();
    assert_eq!((who(&pair, &by_service()).await, who(&pair, &by_error()).await), (Ok(10), Ok(20)));
    let asked_instead = || (pair.metrics.tables_instead.get(), pair.metrics.index_instead.get());
    assert_eq!(asked_instead(), (0, 0));
    for mood in [away(), Mood::Silent, refuses()] {
        tables.is(mood.clone());
        assert_eq!(who(&pair, &by_service()).await, Ok(20), "{mood:?}");
        tables.is(Mood::Well(10));
        index.is(mood.clone());
        assert_eq!(who(&pair, &by_error()).await, Ok(10), "{mood:?}");
        index.is(Mood::Well(20));
    }
    assert_eq!(asked_instead(), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn tables_that_are_behind_what_the_index_is_known_to_have_give_way() {
    let (tables, index, pair) = pair();
    assert_eq!(who(&pair, &by_service()).await, Ok(10), "nothing is known of the index");
    pair.listed().await.unwrap();
    assert_eq!(who(&pair, &by_service()).await, Ok(20));
    index.is(Mood::Silent);
    assert_eq!(who(&pair, &by_service()).await, Ok(10), "half an answer that says so");
    tables.is(Mood::Well(20));
    assert_eq!(who(&pair, &by_service()).await, Ok(20));
}

#[tokio::test(start_paused = true)]
async fn an_index_that_others_write_to_is_asked_first() {
    let (tables, index, _) = pair();
    let metrics = StandInMetrics::default();
    let pair = StandIn::new(tables.searcher(), index.searcher(), true, metrics);
    assert_eq!(who(&pair, &by_service()).await, Ok(20));
    index.is(away());
    assert_eq!(who(&pair, &by_service()).await, Ok(10));
}

#[tokio::test(start_paused = true)]
async fn where_neither_answers_both_reasons_are_said_and_what_may_pass_may_pass() {
    let (tables, index, pair) = pair();
    tables.is(refuses());
    index.is(away());
    let error = pair.search(&by_error()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    for words in ["it is away", "it names no service"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    index.is(refuses());
    let error = pair.search(&by_error()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unsupported(_)), "{error:?}");
    // One that is silent is not waited for beyond the other's reason.
    index.is(Mood::Silent);
    let asked = tokio::time::timeout(Duration::from_secs(60), pair.search(&by_error())).await;
    assert!(asked.is_err(), "the silent one may still answer: its caller gives up");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_for_many_does_not_bring_all_of_them_to_the_other() {
    let (tables, index, pair) = pair();
    index.is(Mood::Silent);
    tables.is(Mood::Silent);
    let pair = Arc::new(pair);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..BOTH_AT_ONCE {
        let pair = Arc::clone(&pair);
        asking.spawn(async move { pair.search(&by_error()).await.map(drop) });
    }
    tokio::time::sleep(2 * PATIENCE).await;
    tables.is(Mood::Well(10));
    let one_more = tokio::time::timeout(4 * PATIENCE, pair.search(&by_error())).await;
    assert!(one_more.is_err(), "it waits for the index alone");
    asking.shutdown().await;
    assert_eq!(who(&pair, &by_error()).await, Ok(10));
}

#[tokio::test(start_paused = true)]
async fn questions_that_only_the_silent_one_can_answer_take_no_room_from_others() {
    let (tables, index, pair) = pair();
    index.is(Mood::Silent);
    tables.is(refuses());
    let pair = Arc::new(pair);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..2 * BOTH_AT_ONCE {
        let pair = Arc::clone(&pair);
        asking.spawn(async move { pair.search(&by_error()).await.map(drop) });
    }
    tokio::time::sleep(2 * PATIENCE).await;
    tables.is(Mood::Well(10));
    let tenant = TenantId::default();
    let listed = pair.services(&tenant, TimeRange::ALL);
    let listed = tokio::time::timeout(2 * PATIENCE, listed).await;
    assert_eq!(listed.expect("there is room").unwrap(), ["tables".into()]);
}

#[tokio::test(start_paused = true)]
async fn who_had_no_room_is_answered_by_the_other_when_the_first_fails_at_last() {
    let (_, index, pair) = pair();
    let room = pair.both.try_acquire_many(u32::try_from(BOTH_AT_ONCE).unwrap()).unwrap();
    index.is(Mood::Silent);
    let pair = &pair;
    let asked = async { pair.ask(Which::Index, |which| slow(pair, which), of_both).await };
    let answer = tokio::time::timeout(20 * PATIENCE, asked).await;
    assert_eq!(answer.expect("it is answered").unwrap(), "tables");
    drop(room);
}

/// An index that fails late, and tables that answer.
fn slow(_: &StandIn, which: Which) -> Asked<'_, &'static str> {
    Box::pin(async move {
        match which {
            Which::Tables => Ok("tables"),
            Which::Index => {
                tokio::time::sleep(3 * PATIENCE).await;
                Err(StoreError::Unavailable("it is away".to_owned()))
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_list_that_the_tables_refuse_is_refused_so_that_its_range_is_asked_for() {
    let (tables, index, pair) = pair();
    index.is(away());
    tables.is(refuses());
    let listed = pair.services(&TenantId::default(), TimeRange::ALL).await;
    assert!(matches!(listed, Err(StoreError::Unsupported(_))), "{listed:?}");
}

#[tokio::test(start_paused = true)]
async fn lists_reach_no_further_than_either_store_may_have_answered() {
    let (tables, index, pair) = pair();
    let listed = async || pair.listed().await.map(|cover| cover.next_in(7, 0));
    let services = async || pair.services(&TenantId::default(), TimeRange::ALL).await.unwrap();
    // An index that was never there has told nothing: it may answer at any moment.
    index.is(away());
    assert_eq!(listed().await.unwrap(), 0);
    assert_eq!(services().await, ["tables".into()]);
    index.is(Mood::Well(20));
    assert_eq!(listed().await.unwrap(), 10);
    assert_eq!(services().await, ["index".into()]);
    // What each had when it was last asked it has still.
    tables.is(Mood::Well(30));
    index.is(Mood::Silent);
    assert_eq!(listed().await.unwrap(), 20);
    assert_eq!(services().await, ["tables".into()]);
    tables.is(away());
    assert!(matches!(listed().await, Err(StoreError::Unavailable(_))));
}
