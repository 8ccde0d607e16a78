//! A small shop in several regions: what its customers and its clerks do, told as stories.
//!
//! Pure: a seed and the distances decide everything. Nothing here knows how spans are sent.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use rand::Rng;

use super::story::{Draft, Place, Told, World};

/// The services, each in every region.
pub(crate) const SERVICES: [&str; 10] = [
    "web",
    "catalog",
    "recommender",
    "cart",
    "inventory",
    "payment",
    "fraud",
    "shipping",
    "orders",
    "email",
];

/// The service that has most spans of a wide story.
pub(crate) const WIDE_SERVICE: &str = "catalog";
/// Levels of the deep story.
const DEEP_LEVELS: usize = 60;
/// Spans of the wide story, about.
const WIDE_ITEMS: usize = 1_100;

/// A story, and how it hangs together with others.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    /// The spans.
    pub(crate) root: Told,
    /// Whether its root links to the messages of earlier stories, and to how many at most.
    pub(crate) reads_messages: usize,
}

/// Span name of an order's message: what sends it may be linked to.
pub(crate) const ORDER_MESSAGE: &str = "send orders";

/// The next story.
pub(crate) fn next(world: &mut World) -> Story {
    let home = world.rng.random_range(0..world.regions());
    match world.rng.random_range(0..1_000) {
        0..=449 => alone(browse(world, home)),
        450..=649 => alone(add_to_cart(world, home)),
        650..=919 => alone(checkout(world, home)),
        920..=979 => Story { root: confirm_orders(world, home), reads_messages: 8 },
        980..=993 => alone(category_tree(world, home)),
        _ => alone(price_update(world, home)),
    }
}

const fn alone(root: Told) -> Story {
    Story { root, reads_messages: 0 }
}

const fn at(service: &'static str, region: usize) -> Place {
    Place { service, region }
}

/// The region so many further on.
fn further(world: &World, home: usize, steps: usize) -> usize {
    (home + steps) % world.regions()
}

/// A request at the shop's door.
fn door(world: &mut World, home: usize, method: &'static str, route: &'static str) -> Draft {
    let name = format!("{method} {route}");
    let mut web = Draft::begin(at("web", home), name, SpanKind::Server, Duration::ZERO);
    web.with(KeyValue::new("http.request.method", method));
    web.with(KeyValue::new("http.route", route));
    web.with(KeyValue::new("user.id", world.rng.random_range(0_i64..50_000)));
    web.with(KeyValue::new("session.id", format!("{:016x}", world.rng.random::<u64>())));
    web.work(world.micros(300, 2_000));
    web
}

fn close_door(mut web: Draft, world: &mut World) -> Told {
    let status = if web.is_failed() { 502_i64 } else { 200 };
    web.step("render", world.micros(500, 4_000));
    web.with(KeyValue::new("http.response.status_code", status));
    web.end()
}

/// Looks at a product; the recommendations may come from another region.
fn browse(world: &mut World, home: usize) -> Told {
    let mut web = door(world, home, "GET", "/products/{id}");
    let product = world.rng.random_range(0_i64..20_000);
    web.call(world, at("catalog", home), "catalog.Get", |catalog, world| {
        catalog.with(KeyValue::new("product.id", product));
        if world.happens(0.7) {
            catalog.event("cache hit").work(world.micros(100, 500));
            return;
        }
        catalog.event("cache miss");
        let slow = if world.happens(0.03) { 40 } else { 1 };
        let time = world.micros(800, 6_000) * slow;
        catalog.query("postgresql", "SELECT * FROM products WHERE id = $1", time);
    });
    let steps = usize::from(world.happens(0.3));
    let recommender = at("recommender", further(world, home, steps));
    web.call(world, recommender, "recommender.List", |list, world| {
        list.step("rank", world.micros(2_000, 15_000));
    });
    close_door(web, world)
}

/// Puts a product into the cart; the stock is asked for where it lies.
fn add_to_cart(world: &mut World, home: usize) -> Told {
    let mut web = door(world, home, "POST", "/cart");
    let stock = further(world, home, 1);
    web.call(world, at("cart", home), "cart.Add", |cart, world| {
        cart.call(world, at("inventory", stock), "inventory.Check", |inventory, world| {
            let time = world.micros(500, 5_000);
            inventory.query("postgresql", "SELECT count FROM stock WHERE sku = $1", time);
        });
        cart.query("redis", "HSET cart", world.micros(200, 900));
    });
    close_door(web, world)
}

/// Buys: payment in the next region, fraud and stock in the one after it.
fn checkout(world: &mut World, home: usize) -> Told {
    let mut web = door(world, home, "POST", "/checkout");
    web.call(world, at("cart", home), "cart.Get", |cart, world| {
        cart.query("redis", "HGETALL cart", world.micros(200, 900));
    });
    let is_paid = pay(&mut web, world, home);
    if !is_paid {
        web.fail("payment failed");
        return close_door(web, world);
    }
    let stock = further(world, home, 2);
    web.call(world, at("inventory", stock), "inventory.Reserve", |inventory, world| {
        let slow = if world.happens(0.05) { 30 } else { 1 };
        let time = world.micros(1_000, 8_000) * slow;
        inventory.event("lock").query("postgresql", "UPDATE stock SET count = count - $1", time);
    });
    web.call(world, at("orders", home), "orders.Place", |orders, world| {
        orders.query("postgresql", "INSERT INTO orders VALUES ($1, $2)", world.micros(800, 4_000));
        let mut message =
            Draft::begin(orders.place(), ORDER_MESSAGE, SpanKind::Producer, orders.now());
        message.with(KeyValue::new("messaging.system", "kafka"));
        message.with(KeyValue::new("messaging.destination.name", "orders"));
        message.work(world.micros(300, 1_500));
        orders.adopt(message);
    });
    let shipping = at("shipping", further(world, home, 1));
    web.call(world, shipping, "shipping.Quote", |shipping, world| {
        shipping.step("route parcels", world.micros(3_000, 25_000));
    });
    close_door(web, world)
}

/// Pays, with a second attempt where the first one may pass. Gives whether it is paid.
fn pay(web: &mut Draft, world: &mut World, home: usize) -> bool {
    let (bank, watch) = (further(world, home, 1), further(world, home, 2));
    let is_declined = world.happens(0.06);
    let is_flaky = world.happens(0.08);
    for attempt in 1_i64..=2 {
        let is_paid = web.call(world, at("payment", bank), "payment.Charge", |payment, world| {
            payment.with(KeyValue::new("retry.attempt", attempt));
            payment.with(KeyValue::new("payment.amount", world.rng.random_range(1.0..900.0)));
            if is_flaky && attempt == 1 {
                payment.work(world.micros(80_000, 250_000)).fail("the bank did not answer");
                return;
            }
            payment.call(world, at("fraud", watch), "fraud.Score", |fraud, world| {
                fraud.query(
                    "clickhouse",
                    "SELECT avg(amount) FROM payments",
                    world.micros(4_000, 30_000),
                );
                fraud.step("score", world.micros(1_000, 10_000));
            });
            if is_declined {
                payment.event("declined").fail("card declined");
                return;
            }
            payment.step("charge", world.micros(10_000, 60_000));
        });
        if is_paid || is_declined {
            return is_paid;
        }
        web.event("retry").work(world.micros(5_000, 30_000));
    }
    false
}

/// A clerk takes a batch of orders from the queue and writes to the customers.
fn confirm_orders(world: &mut World, home: usize) -> Told {
    let mut batch =
        Draft::begin(at("email", home), "process orders", SpanKind::Consumer, Duration::ZERO);
    batch.with(KeyValue::new("messaging.system", "kafka"));
    batch.with(KeyValue::new("messaging.destination.name", "orders"));
    let letters = world.rng.random_range(1..=4);
    for _ in 0..letters {
        batch.step("render letter", world.micros(500, 3_000));
        let is_lost = world.happens(0.04);
        let mut letter = Draft::begin(batch.place(), "smtp send", SpanKind::Client, batch.now());
        letter.work(world.micros(5_000, 40_000));
        if is_lost {
            letter.fail("451 mailbox busy");
        }
        batch.adopt(letter);
    }
    batch.end()
}

/// A deep trace: each category asks the service of its parent category, from region to region.
fn category_tree(world: &mut World, home: usize) -> Told {
    let mut web = door(world, home, "GET", "/categories");
    descend(&mut web, world, home, DEEP_LEVELS / 2);
    close_door(web, world)
}

/// Each level is a client and a server span.
fn descend(parent: &mut Draft, world: &mut World, region: usize, levels: usize) {
    parent.work(world.micros(50, 400));
    if levels == 0 {
        return;
    }
    // Two neighbouring levels in ten cross a border: the whole must not take all day.
    let next = if levels.is_multiple_of(10) { further(world, region, 1) } else { region };
    parent.call(world, at("catalog", next), "catalog.Parent", |category, world| {
        category.with(KeyValue::new("category.level", i64::try_from(levels).unwrap_or(0)));
        descend(category, world, next, levels - 1);
    });
}

/// A wide trace: one job that updates many prices, some at the same time.
fn price_update(world: &mut World, home: usize) -> Told {
    let place = at(WIDE_SERVICE, home);
    let mut job = Draft::begin(place, "update prices", SpanKind::Internal, Duration::ZERO);
    let mut left = WIDE_ITEMS;
    while left > 0 {
        let group = left.min(world.rng.random_range(10..=40));
        left -= group;
        let mut updates = Vec::new();
        for _ in 0..group {
            let mut update = Draft::begin(place, "update price", SpanKind::Internal, job.now());
            update.with(KeyValue::new("product.id", world.rng.random_range(0_i64..20_000)));
            update.work(world.micros(100, 2_000));
            updates.push(update);
        }
        job.adopt_all(updates);
    }
    let (bank, stock) = (further(world, home, 1), further(world, home, 2));
    for region in [bank, stock] {
        job.call(world, at("catalog", region), "catalog.Invalidate", |catalog, world| {
            catalog.work(world.micros(500, 2_000));
        });
    }
    job.end()
}

#[cfg(test)]
mod tests;
