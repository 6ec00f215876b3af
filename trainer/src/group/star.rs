//! Processes that exchange numbers over TCP, all through the first process.
//!
//! Responsible for: connecting the processes, and sums with the same bits in every process. The first process adds the
//! numbers of the others in the order of their ranks.
//! Must not depend on: the meaning of the numbers.
//!
//! As with NCCL and gloo, nothing is encrypted, so the network between the processes must be private. A connection from
//! any other program is closed.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::distributed_env::DistributedEnv;

/// Time limit for connecting all processes.
const MEETING: Duration = Duration::from_secs(300);
/// Time limit for the greeting on a new connection.
const GREETING: Duration = Duration::from_secs(10);
/// Time between two attempts to reach the first process.
const RETRY: Duration = Duration::from_millis(100);
/// First bytes on every connection. The last byte is the version.
const MAGIC: [u8; 8] = *b"tonfall\x01";

/// Why the processes can't work together.
#[derive(Debug, Error)]
pub enum GroupError {
    #[error("the first process can't listen at {at}: {source}\nhint: MASTER_ADDR has to be an address of its machine")]
    Listen { at: String, source: io::Error },

    #[error("the first process can't be reached at {at}: {source}\nhint: MASTER_ADDR and MASTER_PORT name it")]
    Reach { at: String, source: io::Error },

    #[error("{present} of {size} processes connected within {} s; ranks {missing:?} did not", MEETING.as_secs())]
    Absent { present: usize, size: usize, missing: Vec<usize> },

    #[error("rank {rank} is gone ({source}); see its own output")]
    Gone { rank: usize, source: io::Error },

    #[error("rank {rank} is out of step with this process: it sent {found} bytes, {expected} were expected")]
    OutOfStep { rank: usize, found: u64, expected: u64 },

    #[error("rank {rank} has too little memory for this run; its own output has the figures")]
    OutOfMemory { rank: usize },

    #[error("rank {rank} has another {what} than rank 0; all processes need the same program, recipe, base and data")]
    Differs { rank: usize, what: &'static str },
}

/// Connections between the first process and each of the others.
#[derive(Debug)]
pub(super) struct Star {
    rank: usize,
    /// In the first process, one peer for each other rank, in order. In the other processes, only the first process.
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    rank: usize,
    stream: TcpStream,
}

impl Star {
    /// Waits for all processes.
    pub(super) fn meet(env: &DistributedEnv) -> Result<Self, GroupError> {
        let deadline = Instant::now() + MEETING;
        let peers = match env.rank {
            0 => gather(env, deadline)?,
            _ => vec![reach(env, deadline)?],
        };
        for peer in &peers {
            // Small messages are sent immediately, and a machine that disappears is detected.
            let ready = peer.stream.set_nodelay(true).and_then(|()| keep_alive(&peer.stream));
            ready.map_err(|source| GroupError::Gone { rank: peer.rank, source })?;
        }
        Ok(Self { rank: env.rank, peers })
    }

    /// Replaces `values` in every process with their sum, added in the order of the ranks.
    pub(super) fn sum<T: Number>(&mut self, values: &mut [T]) -> Result<(), GroupError> {
        if self.rank == 0 {
            let mut others = vec![T::default(); values.len()];
            for peer in &mut self.peers {
                peer.receive(bytemuck::cast_slice_mut(&mut others))?;
                values.iter_mut().zip(&others).for_each(|(sum, other)| *sum += *other);
            }
        } else {
            self.peers[0].send(bytemuck::cast_slice(values))?;
        }
        self.share(bytemuck::cast_slice_mut(values))
    }

    /// Replaces `bytes` in every process with those of the first process.
    pub(super) fn share(&mut self, bytes: &mut [u8]) -> Result<(), GroupError> {
        if self.rank == 0 {
            self.peers.iter_mut().try_for_each(|peer| peer.send(bytes))
        } else {
            self.peers[0].receive(bytes)
        }
    }
}

/// Numbers that can be added and sent.
pub(super) trait Number: bytemuck::Pod + Default + std::ops::AddAssign {}
impl Number for f32 {}
impl Number for f64 {}

impl Peer {
    /// The length is sent first, so that processes detect when they are out of step.
    fn send(&mut self, bytes: &[u8]) -> Result<(), GroupError> {
        let length = (bytes.len() as u64).to_le_bytes();
        let sent = self.stream.write_all(&length).and_then(|()| self.stream.write_all(bytes));
        sent.map_err(|source| GroupError::Gone { rank: self.rank, source })
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Result<(), GroupError> {
        let gone = |source| GroupError::Gone { rank: self.rank, source };
        let mut length = [0; 8];
        self.stream.read_exact(&mut length).map_err(gone)?;
        let (found, expected) = (u64::from_le_bytes(length), bytes.len() as u64);
        if found != expected {
            return Err(GroupError::OutOfStep { rank: self.rank, found, expected });
        }
        self.stream.read_exact(bytes).map_err(gone)
    }
}

/// Time without data after which TCP keep-alive probes are sent.
const SILENCE: Duration = Duration::from_secs(60);

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(SILENCE))
}

/// The first message of a process: its rank and the number of processes.
fn greeting(rank: usize, size: usize) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&(rank as u64).to_le_bytes());
    bytes[16..].copy_from_slice(&(size as u64).to_le_bytes());
    bytes
}

/// In the first process: accepts one connection from each other process.
fn gather(env: &DistributedEnv, deadline: Instant) -> Result<Vec<Peer>, GroupError> {
    let at = format!("{}:{}", env.address, env.port);
    let listen = |source| GroupError::Listen { at: at.clone(), source };
    let listener = bind(env).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let mut found: Vec<Option<Peer>> = (1..env.size).map(|_| None).collect();
    while found.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => {
                // A stranger, or a second process of the same rank, is refused: its connection is closed.
                if let Some(peer) = welcome(stream, env.size)
                    && found[peer.rank - 1].is_none()
                {
                    let place = peer.rank - 1;
                    found[place] = Some(peer);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(RETRY);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let missing: Vec<usize> = (1..env.size).filter(|rank| found[rank - 1].is_none()).collect();
                return Err(GroupError::Absent { present: env.size - missing.len(), size: env.size, missing });
            }
            Err(source) => return Err(listen(source)),
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Listens on MASTER_ADDR. If no interface of this machine has that address, as with services in Kubernetes, listens on
/// all interfaces.
fn bind(env: &DistributedEnv) -> io::Result<TcpListener> {
    match TcpListener::bind((env.address.as_str(), env.port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), env.port))
        }
        other => other,
    }
}

/// Accepts a process of the same run by its greeting, and acknowledges the greeting.
fn welcome(mut stream: TcpStream, size: usize) -> Option<Peer> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(GREETING)).ok()?;
    let mut said = [0; 24];
    stream.read_exact(&mut said).ok()?;
    let rank = (1..size).find(|rank| greeting(*rank, size) == said)?;
    stream.write_all(&MAGIC).ok()?;
    stream.set_read_timeout(None).ok()?;
    Some(Peer { rank, stream })
}

/// In the other processes: connects to the first process, which may not have started yet.
fn reach(env: &DistributedEnv, deadline: Instant) -> Result<Peer, GroupError> {
    let at = format!("{}:{}", env.address, env.port);
    loop {
        match greet(env) {
            Ok(stream) => return Ok(Peer { rank: 0, stream }),
            Err(_) if Instant::now() < deadline => thread::sleep(RETRY),
            Err(source) => return Err(GroupError::Reach { at, source }),
        }
    }
}

fn greet(env: &DistributedEnv) -> io::Result<TcpStream> {
    let address = (env.address.as_str(), env.port).to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mut stream = TcpStream::connect_timeout(&address, GREETING)?;
    stream.write_all(&greeting(env.rank, env.size))?;
    stream.set_read_timeout(Some(GREETING))?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    stream.set_read_timeout(None)?;
    match answer == MAGIC {
        true => Ok(stream),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "something else answers at this address")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// Runs `task` in `size` processes, which are threads here, and returns their results by rank.
    pub(in crate::group) fn each<T: Send>(size: usize, task: impl Fn(DistributedEnv) -> T + Sync) -> Vec<T> {
        // A port that was free just now.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let env = |rank| DistributedEnv { rank, size, gpu: rank, address: "127.0.0.1".to_owned(), port };
        thread::scope(|scope| {
            let task = &task;
            let running: Vec<_> = (0..size).map(|rank| scope.spawn(move || task(env(rank)))).collect();
            running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn sums_are_added_by_rank_and_the_same_everywhere() {
        for size in 2..5 {
            let sums = each(size, |env| {
                let mut star = Star::meet(&env).expect("all come");
                // The sum of these numbers depends on the order.
                let mut values = vec![[1e8f32, 1.0, -1e8, 3.0][env.rank]; 100_000];
                star.sum(&mut values).expect("a sum");
                let mut small = [env.rank as f64, 0.5];
                star.sum(&mut small).expect("a sum");
                (values, small)
            });
            let want: f32 = [1e8f32, 1.0, -1e8, 3.0][..size].iter().sum();
            for (values, small) in &sums {
                assert!(values.iter().all(|value| value.to_bits() == want.to_bits()));
                assert_eq!(*small, [(size * (size - 1) / 2) as f64, size as f64 / 2.0]);
            }
        }
    }

    #[test]
    fn a_process_that_has_ended_or_is_out_of_step_is_named() {
        let results = each(2, |env| {
            let mut star = Star::meet(&env).expect("all come");
            star.sum(&mut vec![0.0f64; 1 + env.rank]).map_err(|error| error.to_string())
        });
        let text = results[0].as_ref().expect_err("out of step");
        assert!(text.contains("rank 1") && text.contains("16 bytes, 8 were expected"), "{text}");

        let results = each(3, |env| {
            let mut star = Star::meet(&env).expect("all come");
            if env.rank == 2 {
                return Ok(());
            }
            star.sum(&mut [1.0f64]).map_err(|error| error.to_string())
        });
        assert!(results[0].as_ref().expect_err("one left").contains("rank 2 is gone"));
        assert!(results[1].as_ref().expect_err("the first left then").contains("rank 0 is gone"));
    }

    #[test]
    fn connections_of_other_programs_are_closed() {
        let sums = each(2, |env| {
            if env.rank == 1 {
                let at = SocketAddr::from((Ipv4Addr::LOCALHOST, env.port));
                let mut strangers = 0;
                while strangers < 3 {
                    let Ok(mut stream) = TcpStream::connect(at) else { continue };
                    let words: [&[u8]; 3] =
                        [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &greeting(2, 2), &greeting(1, 3)];
                    stream.write_all(words[strangers]).expect("it listens");
                    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "a stranger got an answer");
                    strangers += 1;
                }
            }
            let mut star = Star::meet(&env).expect("all come");
            let mut values = [1.0f64];
            star.sum(&mut values).expect("a sum");
            values
        });
        assert_eq!(sums, [[2.0]; 2]);
    }
}
