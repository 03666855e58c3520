//! TLS with certificates made for the test.

use std::net::SocketAddr;
use std::sync::Arc;

use evenkeel_health::Observation;
use evenkeel_plan::{CheckKind, HttpRequestSpec, TlsSpec};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::{ask, ask_in_vain, check, drip, run, say, serve};

/// A server for `b1.example` that answers every request, and its certificate in PEM.
async fn server() -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["b1.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut bytes = [0; 4_096];
            while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                drop(stream.write_all(text).await);
            }
        }
    })
    .await;
    (address, cert.pem())
}

fn spec(server_name: Option<&str>, roots: Option<&str>) -> TlsSpec {
    TlsSpec {
        server_name: server_name.map(str::to_owned),
        roots: roots.map(str::to_owned),
    }
}

#[test]
fn a_handshake_passes_and_is_verified_where_roots_are_given() {
    run(async {
        let (address, pem) = server().await;
        let (_, other) = server().await;
        for (spec, observation, words) in [
            (
                spec(None, None),
                Observation::Passed,
                "connected with TLS 1.3",
            ),
            (
                spec(None, Some(&pem)),
                Observation::Passed,
                "connected with TLS 1.3",
            ),
            (
                spec(None, Some(&other)),
                Observation::Failed,
                "invalid peer certificate",
            ),
            (
                spec(Some("b2.example"), Some(&pem)),
                Observation::Failed,
                "invalid peer certificate",
            ),
            (
                spec(Some("b2.example"), None),
                Observation::Passed,
                "connected",
            ),
            (
                spec(None, Some("no certificate")),
                Observation::Failed,
                "trusted certificates",
            ),
            (
                spec(Some("no name"), None),
                Observation::Failed,
                "\"no name\" is not a name",
            ),
        ] {
            let outcome = ask(&check(CheckKind::Tls(spec)), &[address]).await;
            assert_eq!(outcome.observation, observation, "{outcome:?}");
            assert!(outcome.answer.starts_with(words), "{outcome:?}");
        }
    });
}

#[test]
fn https_is_http_over_it() {
    run(async {
        let (address, pem) = server().await;
        let https = |roots: Option<&str>| {
            check(CheckKind::Http {
                tls: Some(spec(None, roots)),
                requests: vec![HttpRequestSpec::default(); 2],
            })
        };
        for roots in [None, Some(pem.as_str())] {
            let outcome = ask(&https(roots), &[address]).await;
            assert_eq!(outcome.observation, Observation::Passed, "{outcome:?}");
            assert_eq!(outcome.answer, "GET / answered 200");
        }
        // A plain server says no TLS.
        let outcome = ask_in_vain(
            &https(None),
            &[say(b"HTTP/1.1 400 Bad Request\r\n\r\n").await],
        )
        .await;
        assert!(
            outcome.answer.starts_with("no TLS connection"),
            "{outcome:?}"
        );
    });
}

#[test]
fn a_handshake_that_hangs_drips_or_ends_has_failed_in_time() {
    run(async {
        let check = check(CheckKind::Tls(spec(None, None)));
        let words = "no answer within 200 ms: the TLS handshake";
        assert_eq!(ask_in_vain(&check, &[say(b"").await]).await.answer, words);
        // The head of a record of 16 KiB that never comes to its end.
        let record = drip(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b'\x03').await;
        assert_eq!(ask_in_vain(&check, &[record]).await.answer, words);
        let closing = serve(|stream| async move { drop(stream) }).await;
        let outcome = ask_in_vain(&check, &[closing]).await;
        assert!(
            outcome.answer.contains("closed") || outcome.answer.contains("reset"),
            "{outcome:?}"
        );
    });
}
