//! Keys that come and go: cases 52, 76 and 142, and the fault F46.

use std::sync::Arc;

use serde_json::{Value, json};
use tidegate::auth::{AuthError, Authenticator, Why};

use super::jwks_server::JwksServer;
use super::{KEY, Key, authenticator, claims, config, refused, verify};

fn set(keys: &[&Key]) -> String {
    let one = |key: &&Key| serde_json::from_str::<Value>(&key.signing.jwks()).unwrap()["keys"][0].clone();
    json!({"keys": keys.iter().map(one).collect::<Vec<_>>()}).to_string()
}

async fn with_server(keys: &[&Key]) -> (JwksServer, Arc<Authenticator>) {
    let server = JwksServer::start(set(keys)).await;
    let auth = Arc::new(authenticator(config(server.url())));
    (server, auth)
}

#[tokio::test]
async fn case_52_a_thousand_unknown_keys_cost_the_issuer_one_fetch() {
    let (server, auth) = with_server(&[&KEY]).await;
    assert_eq!(auth.refresh_now().await, 0);
    assert_eq!(server.fetches(), 1);
    let asking: Vec<_> = (0..1_000)
        .map(|n| {
            let (auth, token) = (Arc::clone(&auth), KEY.sign_under(&json!({"kid": format!("unknown-{n}")})));
            tokio::spawn(async move { verify(&auth, &token).await })
        })
        .collect();
    for answer in asking {
        assert_eq!(answer.await.unwrap().unwrap_err(), AuthError::Unauthorized(Why::UnknownKey));
    }
    assert_eq!(server.fetches(), 2, "one for all of them");
    assert!(verify(&auth, &KEY.sign(&claims())).await.is_ok());
}

#[tokio::test]
async fn tokens_that_are_bad_anyway_cost_the_issuer_nothing() {
    let (server, auth) = with_server(&[&KEY]).await;
    refused(65, &auth, &KEY.sign(&super::with("aud", json!("x"))), Why::Audience).await;
    refused(67, &auth, &KEY.sign(&super::with("iss", json!("x"))), Why::Issuer).await;
    assert_eq!(server.fetches(), 0);
}

#[tokio::test]
async fn case_76_with_the_issuer_down_known_keys_work_and_others_wait() {
    let (server, auth) = with_server(&[&KEY]).await;
    server.answer_with(503, "down");
    let unknown = verify(&auth, &KEY.sign(&claims())).await.unwrap_err();
    assert!(matches!(unknown, AuthError::KeysUnavailable { retry_after_s: 1..=5 }), "{unknown:?}");
    assert!(unknown.is_retryable() && !auth.is_ready());
    server.answer_with(200, &set(&[&KEY]));
    assert_eq!(auth.refresh_now().await, 0);
    assert!(auth.is_ready());
    for broken in [(500, "down".to_owned()), (200, "<html>".to_owned()), (200, "{}".to_owned()), (302, set(&[]))] {
        server.answer_with(broken.0, &broken.1);
        assert_eq!(auth.refresh_now().await, 1, "{broken:?}");
        assert!(verify(&auth, &KEY.sign(&claims())).await.is_ok(), "{broken:?}");
    }
    server.answer_with(200, &" ".repeat(1024 * 1024 + 1));
    assert_eq!(auth.refresh_now().await, 1, "too long");
    let other = verify(&auth, &Key::new().sign(&claims())).await.unwrap_err();
    assert!(matches!(other, AuthError::KeysUnavailable { retry_after_s: 1..=30 }), "{other:?}");
    assert!(auth.refresh_failures() >= 6);
}

#[tokio::test]
async fn an_issuer_that_nobody_answers_for_is_a_503() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let auth = authenticator(config(format!("http://{closed}/jwks.json")));
    let error = verify(&auth, &KEY.sign(&claims())).await.unwrap_err();
    assert!(matches!(error, AuthError::KeysUnavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_key_rotated_with_overlap_costs_no_handshake() {
    let new = Key::new();
    let (server, auth) = with_server(&[&KEY]).await;
    let old_token = KEY.sign(&claims());
    let held = verify(&auth, &old_token).await.unwrap();
    server.answer_with(200, &set(&[&KEY, &new]));
    assert_eq!(auth.refresh_now().await, 0);
    assert!(verify(&auth, &new.sign(&claims())).await.is_ok());
    assert!(verify(&auth, &old_token).await.is_ok() && !held.key.is_revoked());
    assert_eq!(*auth.on_change().borrow(), 0);
}

#[tokio::test]
async fn a_new_key_is_found_at_the_first_token_that_names_it() {
    let new = Key::new();
    let (server, auth) = with_server(&[&KEY]).await;
    auth.refresh_now().await;
    server.answer_with(200, &set(&[&KEY, &new]));
    assert!(verify(&auth, &new.sign(&claims())).await.is_ok());
}

#[tokio::test]
async fn case_142_a_key_that_is_gone_takes_its_tokens_with_it() {
    let new = Key::new();
    let (server, auth) = with_server(&[&KEY]).await;
    let mut changes = auth.on_change();
    let token = KEY.sign(&claims());
    let held = verify(&auth, &token).await.unwrap();
    server.answer_with(200, &set(&[&new]));
    assert_eq!(auth.refresh_now().await, 0);
    assert!(changes.has_changed().unwrap() && *changes.borrow_and_update() == 1);
    assert!(held.key.is_revoked());
    refused(142, &auth, &token, Why::UnknownKey).await;
    assert!(verify(&auth, &new.sign(&claims())).await.is_ok());
}

#[tokio::test]
async fn a_file_is_read_again_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, set(&[&KEY])).unwrap();
    let auth = Arc::new(authenticator(config(path.to_str().unwrap())));
    let held = verify(&auth, &KEY.sign(&claims())).await.unwrap();
    std::fs::write(&path, "{\"keys\":[").unwrap();
    assert_eq!(auth.refresh_now().await, 1);
    assert!(!held.key.is_revoked());
    std::fs::write(&path, set(&[&Key::new()])).unwrap();
    let mut changes = auth.on_change();
    let refreshing = auth.spawn_refresh();
    changes.changed().await.unwrap();
    assert!(held.key.is_revoked());
    refreshing.abort();
}
