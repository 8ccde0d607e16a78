//! Receiving, over real connections: what senders see, and what reaches the log.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod fake_log;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod running;
