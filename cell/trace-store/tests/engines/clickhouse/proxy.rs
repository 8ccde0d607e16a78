//! Stands between an adapter and its engine: counts requests, and breaks the one it is told to.

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
}

/// A request that passed.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its head and the beginning of its body.
    pub(crate) text: String,
    pub(crate) read_rows: u64,
}

#[derive(Default)]
struct Plan {
    /// Requests until the fault.
    fault: Option<(usize, Fault)>,
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
        self.plan.lock().unwrap().fault = Some((passing, fault));
    }

    /// Ends the plan; says whether the fault has met a request.
    pub(crate) fn has_broken(&self) -> bool {
        self.plan.lock().unwrap().fault.take().is_none()
    }

    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.plan.lock().unwrap().seen)
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        match plan.fault.take()? {
            (0, fault) => Some(fault),
            (passing, fault) => {
                plan.fault = Some((passing - 1, fault));
                None
            }
        }
    }

    async fn serve(&self, mut client: TcpStream, engine: &str) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let request = read_message(&mut client, &mut buffer).await?;
            let fault = self.next_fault();
            match &fault {
                Some(Fault::Before) => return None,
                Some(Fault::Hook(hook)) => {
                    hook();
                    return None;
                }
                Some(Fault::Silence) => std::future::pending::<()>().await,
                Some(Fault::After | Fault::Half | Fault::Exception) | None => {}
            }
            let mut server = TcpStream::connect(engine).await.ok()?;
            server.write_all(&request).await.ok()?;
            let answer = read_message(&mut server, &mut Vec::new()).await?;
            let text = String::from_utf8_lossy(&request[..request.len().min(6_000)]).into_owned();
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
                Some(_) => return None,
            }
        }
    }
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

/// One HTTP/1.1 message, as it came.
async fn read_message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut end = None;
    loop {
        if end.is_none()
            && let Some(head) = find(buffer, b"\r\n\r\n")
        {
            let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
            end = Some((head + 4, text));
        }
        if let Some((body, head)) = &end {
            let whole = if head.contains("transfer-encoding: chunked") {
                chunks_end(&buffer[*body..]).map(|length| body + length)
            } else {
                let length = head.split("content-length: ").nth(1);
                let length = length.map_or("0", |rest| rest.split("\r\n").next().unwrap());
                Some(body + length.trim().parse::<usize>().unwrap())
            };
            if let Some(whole) = whole.filter(|whole| buffer.len() >= *whole) {
                let rest = buffer.split_off(whole);
                return Some(std::mem::replace(buffer, rest));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// Where a chunked body ends, if it is all there.
fn chunks_end(body: &[u8]) -> Option<usize> {
    let mut place = 0;
    loop {
        let line = find(body.get(place..)?, b"\r\n")?;
        let size = std::str::from_utf8(&body[place..place + line]).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        place += line + 2 + size + 2;
        if size == 0 {
            return (body.len() >= place).then_some(place);
        }
    }
}
