//! Stands between an adapter and its engine: counts requests, and breaks those that it is told to.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a request.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The connection breaks before the engine gets it.
    Before,
    /// … after the engine has done it.
    After,
    /// Something is done to the engine, then the connection breaks.
    Hook(Arc<dyn Fn() + Send + Sync>),
    /// No answer ever comes.
    Silence,
    /// The answer breaks off in the middle.
    Half,
    /// An answer that began well ends with an exception.
    Exception,
    /// The answer's body becomes another, behind a head that fits it.
    Changed(Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>),
    /// The engine does not get it, and this is the answer's body.
    Instead(&'static str),
}

/// Which requests are met, by their heads.
pub(crate) type Meets = fn(&str) -> bool;

/// A request that passed.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its head and the beginning of its body.
    pub(crate) text: String,
    pub(crate) read_rows: u64,
}

struct Order {
    /// Requests that it would meet and that pass before.
    passing: usize,
    /// It meets each one from then on.
    is_lasting: bool,
    meets: Meets,
    fault: Fault,
}

#[derive(Default)]
struct Plan {
    order: Option<Order>,
    /// Requests that were met.
    broken: usize,
    seen: Vec<Seen>,
}

#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) url: String,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    pub(crate) async fn before(engine: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let engine = engine.strip_prefix("http://").unwrap().to_owned();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let proxy = Self { url, plan };
        let serving = proxy.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (serving, engine) = (serving.clone(), engine.clone());
                tokio::spawn(async move { serving.serve(client, &engine).await });
            }
        });
        proxy
    }

    /// The fault meets the request after `passing` more.
    pub(crate) fn break_after(&self, passing: usize, fault: Fault) {
        self.order(Order { passing, is_lasting: false, meets: |_| true, fault });
    }

    /// The fault meets one of these requests, after `passing` of them.
    pub(crate) fn break_one(&self, passing: usize, meets: Meets, fault: Fault) {
        self.order(Order { passing, is_lasting: false, meets, fault });
    }

    /// The fault meets each of these requests, after `passing` of them.
    pub(crate) fn break_each(&self, passing: usize, meets: Meets, fault: Fault) {
        self.order(Order { passing, is_lasting: true, meets, fault });
    }

    fn order(&self, order: Order) {
        let mut plan = self.plan.lock().unwrap();
        (plan.order, plan.broken) = (Some(order), 0);
    }

    /// Ends the plan; says whether the fault has met a request.
    pub(crate) fn has_broken(&self) -> bool {
        let mut plan = self.plan.lock().unwrap();
        plan.order = None;
        std::mem::take(&mut plan.broken) > 0
    }

    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.plan.lock().unwrap().seen)
    }

    fn next_fault(&self, head: &str) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        let order = plan.order.as_mut().filter(|order| (order.meets)(head))?;
        if order.passing > 0 {
            order.passing -= 1;
            return None;
        }
        let (fault, is_lasting) = (order.fault.clone(), order.is_lasting);
        if !is_lasting {
            plan.order = None;
        }
        plan.broken += 1;
        Some(fault)
    }

    async fn serve(&self, mut client: TcpStream, engine: &str) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let request = read_request(&mut client, &mut buffer).await?;
            let text = String::from_utf8_lossy(&request[..request.len().min(6_000)]).into_owned();
            let fault = self.next_fault(text.split("\r\n\r\n").next().unwrap());
            match &fault {
                Some(Fault::Before) => return None,
                Some(Fault::Hook(hook)) => {
                    hook();
                    return None;
                }
                Some(Fault::Silence) => std::future::pending::<()>().await,
                Some(Fault::Instead(body)) => {
                    let answer =
                        with_body(b"HTTP/1.1 200 OK\r\n\r\n", |_| body.as_bytes().to_vec());
                    client.write_all(&answer).await.ok()?;
                    return None;
                }
                Some(Fault::After | Fault::Half | Fault::Exception | Fault::Changed(_)) | None => {}
            }
            let mut server = TcpStream::connect(engine).await.ok()?;
            server.write_all(&uncompressed(request)).await.ok()?;
            let answer = read_answer(&mut server, text.starts_with("HEAD ")).await?;
            let read_rows = number_in(&answer, "\"read_rows\":\"");
            self.plan.lock().unwrap().seen.push(Seen { text, read_rows });
            match fault {
                None => client.write_all(&answer).await.ok()?,
                Some(Fault::Half) => {
                    client.write_all(&answer[..answer.len() - answer.len() / 8 - 1]).await.ok()?;
                    return None;
                }
                Some(Fault::Exception) => {
                    client.write_all(&with_exception(&answer)).await.ok()?;
                    return None;
                }
                Some(Fault::Changed(change)) => {
                    client.write_all(&with_body(&answer, &*change)).await.ok()?;
                    return None;
                }
                Some(_) => return None,
            }
        }
    }
}

/// The request, whose answer is to be read here.
fn uncompressed(mut request: Vec<u8>) -> Vec<u8> {
    let head = find(&request, b"\r\n\r\n").unwrap();
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    if let Some(at) = text.find("\r\naccept-encoding:") {
        // A name of as many letters that says nothing.
        request[at + 2..at + 17].copy_from_slice(b"x-cept-encoding");
    }
    request
}

/// The answer with another body, and a head that says so.
fn with_body(answer: &[u8], change: impl Fn(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let (head, body) = answer.split_at(find(answer, b"\r\n\r\n").unwrap() + 4);
    let head = String::from_utf8_lossy(head).into_owned();
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = change(if is_chunked { unchunked(body) } else { body.to_vec() });
    let is_kept = |line: &&str| {
        let line = line.to_lowercase();
        let own = ["content-length:", "transfer-encoding:", "connection:"];
        !line.is_empty() && !own.iter().any(|name| line.starts_with(name))
    };
    let mut lines: Vec<String> = head.lines().filter(is_kept).map(str::to_owned).collect();
    lines.push(format!("Content-Length: {}", body.len()));
    lines.push("Connection: close\r\n\r\n".to_owned());
    let mut changed = lines.join("\r\n").into_bytes();
    changed.extend(body);
    changed
}

/// An answer that says 200 and ends with what the engine says when it fails behind that.
fn with_exception(answer: &[u8]) -> Vec<u8> {
    let head_end = find(answer, b"\r\n\r\n").unwrap() + 4;
    let mut body = answer[head_end..].to_vec();
    body.extend_from_slice(
        b"Code: 159. DB::Exception: Timeout exceeded: elapsed 9 seconds. (TIMEOUT_EXCEEDED) \
          (version 26.9.2.1 (official build))\n",
    );
    let length = body.len();
    let mut changed =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
            .into_bytes();
    changed.extend(body);
    changed
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn number_in(answer: &[u8], before: &str) -> u64 {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(2_000)]).into_owned();
    let Some((_, rest)) = text.split_once(before) else { return 0 };
    rest.split('"').next().unwrap().parse().unwrap()
}

/// One HTTP/1.1 request, as it came.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(whole) = length_of(buffer, 0).filter(|whole| buffer.len() >= *whole) {
            let rest = buffer.split_off(whole);
            return Some(std::mem::replace(buffer, rest));
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The answer to it, on a connection of its own; one that does not tell its length ends with that.
async fn read_answer(stream: &mut TcpStream, is_head_alone: bool) -> Option<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        let whole = match is_head_alone || is_empty(&answer) {
            true => find(&answer, b"\r\n\r\n").map(|head| head + 4),
            false => length_of(&answer, usize::MAX),
        };
        if whole.is_some_and(|whole| answer.len() >= whole) {
            return Some(answer);
        }
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return (whole == Some(usize::MAX)).then_some(answer);
        }
    }
}

/// Whether an answer has no body, whatever its head says.
fn is_empty(answer: &[u8]) -> bool {
    [&b"HTTP/1.1 204"[..], b"HTTP/1.1 304"].iter().any(|status| answer.starts_with(status))
}

/// The length of a message whose head is there, and `untold` where neither head nor body tells it.
fn length_of(message: &[u8], untold: usize) -> Option<usize> {
    let head = find(message, b"\r\n\r\n")?;
    let (text, body) = (String::from_utf8_lossy(&message[..head]).to_lowercase(), head + 4);
    if text.contains("transfer-encoding: chunked") {
        return chunks_end(&message[body..]).map(|length| body + length);
    }
    let length = text.split("content-length: ").nth(1);
    let length = length.map(|rest| rest.split("\r\n").next().unwrap().trim().parse::<usize>());
    Some(length.map_or(if untold == 0 { body } else { untold }, |length| body + length.unwrap()))
}

/// Where a chunked body ends, if it is all there.
fn chunks_end(body: &[u8]) -> Option<usize> {
    chunks(body).map(|(end, _)| end)
}

fn unchunked(body: &[u8]) -> Vec<u8> {
    chunks(body).unwrap().1
}

/// The end of a chunked body, and what is in it.
fn chunks(body: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut place, mut held) = (0, Vec::new());
    loop {
        let line = find(body.get(place..)?, b"\r\n")?;
        let size = std::str::from_utf8(&body[place..place + line]).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let start = place + line + 2;
        place = start + size + 2;
        held.extend_from_slice(body.get(start..start + size)?);
        if size == 0 {
            return (body.len() >= place).then_some((place, held));
        }
    }
}
