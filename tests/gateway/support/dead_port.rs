//! Ports where no backend answers.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// A port that stays reserved while every connection to it fails.
pub struct DeadPort {
    address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl DeadPort {
    /// Connections are refused: the port is bound, but nothing listens.
    pub fn refusing() -> Self {
        let socket = bound();
        Self {
            address: local_address(&socket),
            _sockets: vec![socket],
        }
    }

    /// Connections are never established: the queue of the listener is full and stays so.
    pub fn unanswering() -> Self {
        let socket = bound();
        socket.listen(0).expect("listen");
        let address = local_address(&socket);
        let mut sockets = vec![socket];
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            filler.set_nonblocking(true).expect("nonblocking");
            // In progress is what a non-blocking connect says.
            drop(filler.connect(&address.into()));
            sockets.push(filler);
        }
        Self {
            address,
            _sockets: sockets,
        }
    }

    /// Where nothing answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn bound() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("bind");
    socket
}

fn local_address(socket: &Socket) -> SocketAddr {
    socket
        .local_addr()
        .expect("address")
        .as_socket()
        .expect("an internet address")
}
