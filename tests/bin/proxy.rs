//! An HTTP proxy that knows CONNECT and nothing else: `proxy ADDR [USER:PASSWORD]`, until it is killed.
//!
//! For tests of networks from which nothing else leads out. Prints a line once it listens.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result};
use data_encoding::BASE64;

/// Most bytes of a request.
const MAX_REQUEST: u64 = 8 << 10;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr the exit code has to do.
            let _ = writeln!(io::stderr(), "error: {error:#}\nhint: proxy ADDR [USER:PASSWORD]");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("an address to listen on is missing")?;
    let password = arguments.next().map(|password| format!("Basic {}", BASE64.encode(password.as_bytes())));
    let listener = TcpListener::bind(&address).with_context(|| format!("listening on {address}"))?;
    writeln!(io::stdout(), "proxy listens at {address}")?;
    for stream in listener.incoming() {
        let (stream, password) = (stream?, password.clone());
        thread::spawn(move || {
            // Whoever does not like the answer asks again.
            let _ = connect(&stream, password.as_deref());
        });
    }
    Ok(())
}

/// Answers one request, and passes on what follows.
fn connect(near: &TcpStream, password: Option<&str>) -> Result<()> {
    let mut request = BufReader::new(near.take(MAX_REQUEST));
    let (mut first, mut authorised) = (String::new(), password.is_none());
    request.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        request.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        authorised |= name.eq_ignore_ascii_case("Proxy-Authorization") && Some(value.trim()) == password;
    }
    if !authorised {
        (&*near).write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(());
    }
    let mut words = first.split_whitespace();
    let (Some("CONNECT"), Some(place)) = (words.next(), words.next()) else {
        (&*near).write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(());
    };
    let far = TcpStream::connect(place)?;
    (&*near).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let back = (far.try_clone()?, near.try_clone()?);
    let returning = thread::spawn(move || pass(&back.0, &back.1));
    pass(near, &far)?;
    returning.join().map_err(|_| anyhow::anyhow!("a thread failed"))?
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) -> Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)?;
    Ok(())
}
