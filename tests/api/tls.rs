//! The service over TLS, with a certificate made for the test.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reqwest::{Certificate, Client};
use rewarden::http::{self, tls::Tls};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::helpers::{Service, Setup};

const PATIENCE: Duration = Duration::from_millis(500);
/// Far more than any of it takes.
const LONG: Duration = Duration::from_secs(20);

/// A certificate for 127.0.0.1 and its key, in files.
struct Pair {
    folder: TempDir,
    pem: String,
}

impl Pair {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self { folder, pem: made.cert.pem() }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}

/// A service that speaks TLS, and a client that trusts it.
async fn encrypted(header_timeout: Duration, apart: bool) -> Service {
    let pair = Pair::new();
    let tls = Some(Tls::read(&pair.certificate(), &pair.key()).unwrap());
    let http = http::Config { header_timeout, connections: 4, ..Default::default() };
    let service = Service::start(Setup { http, tls, apart, ..Setup::default() }).await;
    let root = Certificate::from_pem(pair.pem.as_bytes()).unwrap();
    let client = Client::builder().no_proxy().use_rustls_tls().add_root_certificate(root).build().unwrap();
    let service = Service { client, ..service };
    let ready = format!("https://{}/readyz", service.address);
    service.until(async || service.client.get(&ready).send().await.unwrap().status() == 200).await;
    service
}

#[tokio::test]
async fn requests_are_answered_on_all_ports() {
    let mut service = encrypted(LONG, true).await;
    let request = service.client.post(format!("https://{}/v1/rewards", service.address));
    let response = request.json(&json!({"items": [{"text": "x"}]})).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_11);
    assert_eq!(response.json::<Value>().await.unwrap()["data"][0]["tokens"], 1);
    let metrics = format!("https://{}/metrics", service.metrics.unwrap());
    assert_eq!(service.client.get(metrics).send().await.unwrap().status(), 200);
    service.shutdown.take().unwrap().send(()).unwrap();
    tokio::time::timeout(LONG, service.server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn those_who_do_not_trust_or_do_not_encrypt_get_nothing() {
    let service = encrypted(LONG, false).await;
    let stranger = Client::builder().no_proxy().use_rustls_tls().build().unwrap();
    assert!(
        stranger.get(format!("https://{}/livez", service.address)).send().await.unwrap_err().is_connect()
    );
    assert!(stranger.get(format!("http://{}/livez", service.address)).send().await.is_err());
    let response = service.client.get(format!("https://{}/livez", service.address)).send().await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_client_that_never_speaks_holds_up_nobody() {
    let service = encrypted(LONG, false).await;
    let livez = format!("https://{}/livez", service.address);
    // The client's own connection rests beside these two: one place of four is free.
    let silent = [0; 2].map(|_| TcpStream::connect(service.address).unwrap());
    let started = Instant::now();
    let last = service.client.get(&livez).header("connection", "close");
    assert_eq!(last.send().await.unwrap().status(), 200);
    assert_eq!(service.client.get(&livez).send().await.unwrap().status(), 200);
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    drop(silent);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_hung_up_on() {
    let service = encrypted(PATIENCE, false).await;
    // The second begins as a handshake does.
    for sent in [&b""[..], &[22, 3, 1, 2, 0]] {
        let mut stream = TcpStream::connect(service.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(sent).unwrap();
        let started = Instant::now();
        let read = spawn_blocking(move || stream.read(&mut [0; 8])).await.unwrap();
        assert!(read.as_ref().is_ok_and(|bytes| *bytes == 0), "{sent:?}: {read:?}");
        assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    }
}

#[test]
fn files_that_are_wrong_are_named() {
    let (pair, other) = (Pair::new(), Pair::new());
    let empty = pair.folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let broken = pair.folder.path().join("broken.pem");
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let half = pair.folder.path().join("half.pem");
    std::fs::write(&half, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let (certificate, key, missing) = (pair.certificate(), pair.key(), Path::new("/no/such.pem"));
    let table: [(&Path, &Path, &Path, &str); 8] = [
        (missing, &key, missing, "No such file"),
        (&certificate, missing, missing, "No such file"),
        (&empty, &key, &empty, "no certificate in PEM"),
        (&key, &key, &key, "no certificate in PEM"),
        (&certificate, &certificate, &certificate, "no private key in PEM"),
        (&half, &key, &half, "section"),
        (&broken, &key, &broken, "certificate"),
        (&certificate, &other.key(), &other.key(), "not the key of the certificate in"),
    ];
    for (certificate, key, named, message) in table {
        let error = Tls::read(certificate, key).err().unwrap().to_string();
        assert!(error.starts_with(&format!("{}: ", named.display())) && error.contains(message), "{error}");
    }
}
