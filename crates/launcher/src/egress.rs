//! Egress: the connections out of an environment that its lab allows.
//!
//! There is no route out of an environment. The rules of its namespace redirect all TCP connections to a relay in the
//! launcher, which looks up the original destination, and connects from the host's namespace if the lab's allowlist
//! permits it. A small resolver answers only the allowed names; an address is reachable once an allowed name resolved
//! to it. The relay never connects to loopback, link-local (the metadata address) and the host's own addresses,
//! whatever the allowlist contains. New connections and queries are limited in rate, so that nobody scans what a wide
//! allowlist covers.

use std::{
    collections::HashMap,
    io,
    net::{
        IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener as StdTcpListener,
        UdpSocket as StdUdpSocket,
    },
    num::NonZeroU32,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use faultline_domain::lab::Egress;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{RData, Record, RecordType},
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::net::{GATEWAY, RELAY_PORT};

/// The maximum number of simultaneous connections.
const MAX_CONNECTIONS: usize = 128;
/// New connections and queries a second. Downloading a package list or an image needs a few.
const RATE: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// New connections and queries that may come at once after a pause.
const BURST: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// The minimum interval between two log lines about refused ones.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The destinations that a lab allows.
#[derive(Debug)]
struct Allowlist {
    networks: Vec<(Ipv4Addr, u32, u16)>,
    names: Vec<(String, u16)>,
    resolved: Mutex<HashMap<(Ipv4Addr, u16), ()>>,
}

impl Allowlist {
    fn new(entries: &[Egress]) -> Self {
        let (mut networks, mut names) = (Vec::new(), Vec::new());
        for Egress { to, port } in entries {
            let (address, length) = to
                .split_once('/')
                .map_or((to.as_str(), Some(32)), |(a, l)| (a, l.parse().ok()));
            match (address.parse::<Ipv4Addr>(), length) {
                (Ok(address), Some(length)) if length <= 32 => {
                    networks.push((address, length, *port))
                }
                _ => names.push((to.trim_end_matches('.').to_ascii_lowercase(), *port)),
            }
        }
        Self {
            networks,
            names,
            resolved: Mutex::default(),
        }
    }

    fn knows(&self, name: &str) -> bool {
        self.names.iter().any(|(n, _)| n == name)
    }

    fn learn(&self, name: &str, addresses: &[Ipv4Addr]) {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, port) in self.names.iter().filter(|(n, _)| n == name) {
            resolved.extend(addresses.iter().map(|a| ((*a, *port), ())));
        }
    }

    fn allows(&self, to: SocketAddrV4) -> bool {
        let ip = *to.ip();
        if ip.is_loopback()
            || ip.is_link_local()
            || ip.is_unspecified()
            || ip.is_multicast()
            || ip.is_broadcast()
        {
            return false;
        }
        let in_network = |(network, length, port): &(Ipv4Addr, u32, u16)| {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            *port == to.port() && network.to_bits() & mask == ip.to_bits() & mask
        };
        self.networks.iter().any(in_network)
            || self
                .resolved
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(&(ip, to.port()))
    }
}

/// Limits the rate of new connections, or of queries.
struct Limit {
    what: &'static str,
    limiter: DefaultDirectRateLimiter,
    logged: Option<Instant>,
}

impl Limit {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            limiter: RateLimiter::direct(Quota::per_second(RATE).allow_burst(BURST)),
            logged: None,
        }
    }

    /// Returns true if one more is allowed now, and counts it.
    fn allows(&mut self) -> bool {
        let allowed = self.limiter.check().is_ok();
        if !allowed && self.logged.is_none_or(|at| at.elapsed() > LOG_INTERVAL) {
            tracing::warn!(
                what = self.what,
                per_second = RATE,
                "egress: too many; refusing"
            );
            self.logged = Some(Instant::now());
        }
        allowed
    }
}

/// Starts the relay and the resolver. Must be called in the environment's namespace; `host` is the host's namespace.
pub fn start(entries: &[Egress], host: OwnedFd) -> io::Result<()> {
    let relay = StdTcpListener::bind((Ipv4Addr::UNSPECIFIED, RELAY_PORT))?;
    let resolver = StdUdpSocket::bind((GATEWAY, 53))?;
    relay.set_nonblocking(true)?;
    resolver.set_nonblocking(true)?;
    let allowed = Arc::new(Allowlist::new(entries));
    std::thread::Builder::new()
        .name("egress".to_owned())
        .spawn(move || {
            // The listeners stay in the environment's namespace. Sockets that this thread opens from now on are in the
            // host's.
            let entered = rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&host),
                Some(rustix::thread::LinkNameSpaceType::Network),
            );
            if let Err(e) = entered {
                tracing::error!(error = %e, "egress: cannot enter the host's network namespace");
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => {
                    let result: io::Result<()> = runtime.block_on(async {
                        let relay = TcpListener::from_std(relay)?;
                        let resolver = UdpSocket::from_std(resolver)?;
                        // Both run until the launcher ends.
                        tokio::join!(
                            accept(relay, Arc::clone(&allowed)),
                            resolve(resolver, allowed)
                        );
                        Ok(())
                    });
                    if let Err(e) = result {
                        tracing::error!(error = %e, "egress: the relay could not be started");
                    }
                }
                Err(e) => tracing::error!(error = %e, "egress: cannot start a runtime"),
            }
        })?;
    Ok(())
}

/// The pause after a failed accept or receive. If file descriptors run out, each attempt fails immediately.
const REST: Duration = Duration::from_millis(100);

/// Repeats `attempt` until it succeeds, so that a client that resets its connection, or a lack of file descriptors or
/// memory, doesn't end the relay or the resolver. Logs only the first failure in a row.
async fn until_ok<T, F: Future<Output = io::Result<T>>>(
    what: &'static str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let mut logged = false;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(e) => {
                if !logged {
                    tracing::warn!(error = %e, what, "egress: failed; retrying");
                }
                logged = true;
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn accept(listener: TcpListener, allowed: Arc<Allowlist>) {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let mut limit = Limit::new("connections");
    loop {
        let (mut inside, _) = until_ok("accept", || listener.accept()).await;
        if !limit.allows() {
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let allowed = Arc::clone(&allowed);
        tokio::spawn(async move {
            let _place = place;
            let Ok(to) = original_destination(&inside) else {
                return;
            };
            if !allowed.allows(to) || is_own_address(*to.ip()) {
                tracing::debug!(%to, "egress refused");
                return;
            }
            if let Ok(mut outside) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            }
        });
    }
}

/// Returns true if the address is the host's own: only then binding to it succeeds.
fn is_own_address(ip: Ipv4Addr) -> bool {
    StdUdpSocket::bind((ip, 0)).is_ok()
}

fn original_destination(stream: &TcpStream) -> io::Result<SocketAddrV4> {
    const SO_ORIGINAL_DST: libc::c_int = 80;
    // SAFETY: sockaddr_in is plain data, for which zeroes are a valid value.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap_or(16);
    // SAFETY: the kernel writes at most `len` bytes to `address`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_IP,
            SO_ORIGINAL_DST,
            (&raw mut address).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(SocketAddrV4::new(
        Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)),
        u16::from_be(address.sin_port),
    ))
}

async fn resolve(socket: UdpSocket, allowed: Arc<Allowlist>) {
    let mut limit = Limit::new("queries");
    loop {
        let (packet, from) = until_ok("receive", || receive(&socket)).await;
        if !limit.allows() {
            continue;
        }
        let Ok(query) = Message::from_vec(&packet) else {
            continue;
        };
        if let Ok(reply) = answer(&query, &allowed).await.to_vec() {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

async fn receive(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut packet = vec![0; 512];
    let (n, from) = socket.recv_from(&mut packet).await?;
    packet.truncate(n);
    Ok((packet, from))
}

async fn answer(query: &Message, allowed: &Allowlist) -> Message {
    let mut reply = Message::new();
    reply
        .set_id(query.id())
        .set_message_type(MessageType::Response)
        .set_op_code(OpCode::Query);
    reply
        .set_recursion_desired(query.recursion_desired())
        .set_recursion_available(true);
    let Some(question) = query.queries().first() else {
        reply.set_response_code(ResponseCode::FormErr);
        return reply;
    };
    reply.add_query(question.clone());
    let name = question
        .name()
        .to_ascii()
        .trim_end_matches('.')
        .to_ascii_lowercase();
    if !allowed.knows(&name) {
        reply.set_response_code(ResponseCode::Refused);
        return reply;
    }
    if question.query_type() == RecordType::A {
        let found: Vec<Ipv4Addr> = match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(found) => found
                .filter_map(|a| match a.ip() {
                    IpAddr::V4(ip) => Some(ip),
                    IpAddr::V6(_) => None,
                })
                .collect(),
            Err(_) => {
                reply.set_response_code(ResponseCode::ServFail);
                return reply;
            }
        };
        allowed.learn(&name, &found);
        for ip in found {
            reply.add_answer(Record::from_rdata(
                question.name().clone(),
                30,
                RData::A(ip.into()),
            ));
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, u16)]) -> Allowlist {
        let entries: Vec<Egress> = entries
            .iter()
            .map(|(to, port)| Egress {
                to: (*to).to_owned(),
                port: *port,
            })
            .collect();
        Allowlist::new(&entries)
    }

    #[test]
    fn only_what_is_listed_is_allowed_and_some_things_never() {
        let allowed = list(&[
            ("192.0.2.0/24", 443),
            ("198.51.100.7", 80),
            ("deb.example", 80),
            ("0.0.0.0/0", 81),
        ]);
        let ok = |a: &str| allowed.allows(a.parse().unwrap());
        assert!(ok("192.0.2.9:443") && ok("198.51.100.7:80") && ok("203.0.113.1:81"));
        assert!(!ok("192.0.2.9:80") && !ok("192.0.3.9:443") && !ok("198.51.100.8:80"));
        assert!(!ok("169.254.169.254:81") && !ok("127.0.0.1:81") && !ok("0.0.0.0:81"));
    }

    #[test]
    fn a_burst_is_allowed_and_then_only_the_rate() {
        let mut limit = Limit::new("connections");
        let began = Instant::now();
        let allowed = (0..1000).filter(|_| limit.allows()).count();
        let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
        let (burst, rate) = (BURST.get() as usize, RATE.get() as usize);
        assert!(
            (burst..=burst + rate * seconds).contains(&allowed),
            "{allowed}"
        );
        std::thread::sleep(Duration::from_secs(1) / RATE.get());
        assert!(limit.allows(), "it is refilled");
    }

    #[tokio::test]
    async fn errors_do_not_end_the_relay() {
        let mut attempts = 0;
        let taken = until_ok("accept", || {
            attempts += 1;
            let result = match attempts {
                1 => Err(io::ErrorKind::ConnectionAborted.into()),
                2 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                n => Ok(n),
            };
            async move { result }
        });
        assert_eq!(taken.await, 3);
    }

    #[tokio::test]
    async fn the_resolver_survives_an_error_of_its_socket() {
        let resolver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = resolver.local_addr().unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // A connected socket notices that its peer is gone: the next receive fails with ECONNREFUSED.
        resolver
            .connect(client.local_addr().unwrap())
            .await
            .unwrap();
        let port = client.local_addr().unwrap();
        drop(client);
        resolver.send(b"is anybody there").await.unwrap();
        let serving = tokio::spawn(resolve(resolver, Arc::new(list(&[]))));

        let client = UdpSocket::bind(port).await.unwrap();
        let mut query = Message::new();
        query.set_id(77).add_query(hickory_proto::op::Query::query(
            "evil.example.".parse().unwrap(),
            RecordType::A,
        ));
        client
            .send_to(&query.to_vec().unwrap(), address)
            .await
            .unwrap();
        let mut buffer = [0; 512];
        let received = tokio::time::timeout(Duration::from_secs(10), client.recv(&mut buffer));
        let n = received.await.expect("it answers").unwrap();
        let reply = Message::from_vec(&buffer[..n]).unwrap();
        assert_eq!(
            (reply.id(), reply.response_code()),
            (77, ResponseCode::Refused)
        );
        serving.abort();
    }

    #[test]
    fn an_address_is_reachable_once_an_allowed_name_has_it() {
        let allowed = list(&[("deb.example", 80)]);
        let to = "203.0.113.5:80".parse().unwrap();
        assert!(!allowed.allows(to));
        assert!(allowed.knows("deb.example") && !allowed.knows("evil.example"));
        allowed.learn("deb.example", &["203.0.113.5".parse().unwrap()]);
        assert!(allowed.allows(to));
        assert!(!allowed.allows("203.0.113.5:443".parse().unwrap()));
    }
}
