//! Section C of the faults: every bad token is a 401, whatever is wrong with it. Cases carry their numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tokens/jwks_server.rs"]
mod jwks_server;
#[path = "tokens/revoked.rs"]
mod revoked;
#[path = "tokens/rotation.rs"]
mod rotation;

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tidegate::auth::signing::{SigningError, SigningKey, TokenRequest, generate};
use tidegate::auth::{
    AuthConfig, AuthError, AuthSetupError, Authenticator, Identity, IssuerConfig, Scope, TokenAlgorithm, Verified, Why,
};

/// The clock of these tests, in Unix seconds.
const NOW: i64 = 1_800_000_000;
const TOKEN_BYTES: usize = 8 * 1024;

/// A key whose private half can sign any bytes at all.
struct Key {
    signing: SigningKey,
    encoding: EncodingKey,
}

impl Key {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = generate(dir.path(), TokenAlgorithm::ES256).unwrap();
        let pem = std::fs::read_to_string(made.signing_key).unwrap();
        let encoding = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
        Self { signing: SigningKey::from_pem(&pem).unwrap(), encoding }
    }

    fn sign(&self, claims: &Value) -> String {
        self.signing.sign(claims).unwrap()
    }

    /// Signs two parts as they are.
    fn sign_parts(&self, header: &str, payload: &str) -> String {
        let signed = format!("{header}.{payload}");
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.encoding, Algorithm::ES256).unwrap();
        format!("{signed}.{signature}")
    }

    /// Signs any bytes as header and payload.
    fn sign_raw(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        self.sign_parts(&part(header), &part(payload))
    }

    /// Signs good claims under a header with members added or changed.
    fn sign_under(&self, more: &Value) -> String {
        let mut header = json!({"alg": "ES256", "kid": self.signing.kid()});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        header.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.sign_raw(header.to_string(), claims().to_string())
    }

    fn header(&self) -> String {
        json!({"alg": "ES256", "kid": self.signing.kid()}).to_string()
    }
}

static KEY: LazyLock<Key> = LazyLock::new(Key::new);

fn config(jwks: impl Into<String>) -> AuthConfig {
    AuthConfig { jwks: jwks.into(), ..AuthConfig::default() }
}

fn authenticator(config: AuthConfig) -> Authenticator {
    Authenticator::new(config, TOKEN_BYTES, 100).unwrap()
}

/// A gateway that takes what `KEY` signs.
fn gateway() -> Authenticator {
    authenticator(config(KEY.signing.jwks()))
}

fn claims() -> Value {
    json!({"iss": "tidegate", "aud": "tidegate", "sub": "sensor-001", "tenant": "acme", "scope": "device",
           "iat": NOW, "exp": NOW + 3_600})
}

/// The usual claims with one of them changed, or taken away by `null`.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn part(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

async fn verify(auth: &Authenticator, token: &str) -> Result<Verified, AuthError> {
    auth.verify(token, NOW * 1_000).await
}

/// Checks that a token is refused for the reason its case is about, in the words of all refusals.
async fn refused(case: u32, auth: &Authenticator, token: &str, why: Why) {
    let shown = &token[..token.len().min(200)];
    let error = verify(auth, token).await.expect_err(&format!("case {case} was accepted: {shown}"));
    assert_eq!(error, AuthError::Unauthorized(why), "case {case}: {shown}");
    assert_eq!(error.to_string(), "the token was not accepted", "case {case}");
}

#[tokio::test]
async fn a_good_token_of_each_algorithm_is_taken() {
    for algorithm in [TokenAlgorithm::ES256, TokenAlgorithm::RS256, TokenAlgorithm::EdDSA, TokenAlgorithm::HS256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let auth = authenticator(AuthConfig { algorithms: vec![algorithm], ..config(key.jwks()) });
        let token = key.sign(&claims()).unwrap();
        for round in ["verified", "from the cache"] {
            let verified = verify(&auth, &token).await.expect(round);
            assert!(matches!(&verified.identity, Identity::Device(d) if d.key().as_str() == "acme/sensor-001"));
            assert_eq!((verified.expires_at_ms, verified.issued_at_ms), ((NOW + 3_600) * 1_000, Some(NOW * 1_000)));
            assert_eq!((verified.key.kid(), verified.key.issuer()), (Some(key.kid()), "tidegate"));
        }
    }
}

#[tokio::test]
async fn an_application_has_its_scopes_and_its_devices() {
    let mut said = with("scope", json!(["telemetry:read", "email"]));
    said["devices"] = json!(["sensor-*"]);
    let Identity::App(app) = verify(&gateway(), &KEY.sign(&said)).await.unwrap().identity else { panic!("an app") };
    assert!(app.has(Scope::TelemetryRead) && !app.has(Scope::CommandsWrite) && !app.has(Scope::Admin));
    let reaches = |tenant, device| app.may_reach(&tidegate::id::DeviceKey::new(tenant, device).unwrap());
    assert!(reaches("acme", "sensor-7") && !reaches("acme", "valve-1") && !reaches("other", "sensor-7"));
    for bad in [json!("sensor-*"), json!([7]), json!(["a/b"])] {
        said["devices"] = bad;
        refused(0, &gateway(), &KEY.sign(&said), Why::Scope).await;
    }
}

#[tokio::test]
async fn case_49_a_token_without_an_algorithm_is_refused() {
    for alg in [json!("none"), json!("NoNe"), json!(""), json!(null), json!(0), json!("es256"), json!("ES512")] {
        refused(49, &gateway(), &KEY.sign_under(&json!({"alg": alg})), Why::Algorithm).await;
    }
    let unsigned = format!("{}.{}.", part(r#"{"alg":"none"}"#), part(claims().to_string()));
    refused(49, &gateway(), &unsigned, Why::Encoding).await;
}

#[tokio::test]
async fn case_50_a_public_key_is_no_shared_secret() {
    let rsa = SigningKey::generate(TokenAlgorithm::RS256).unwrap();
    let header = json!({"alg": "HS256", "kid": rsa.kid()}).to_string();
    let signed = format!("{}.{}", part(header), part(claims().to_string()));
    let all = vec![TokenAlgorithm::RS256, TokenAlgorithm::HS256];
    let auth = authenticator(AuthConfig { algorithms: all, ..config(rsa.jwks()) });
    let set: Value = serde_json::from_str(&rsa.jwks()).unwrap();
    for secret in [rsa.jwks(), set["keys"][0].to_string(), set["keys"][0]["n"].as_str().unwrap().to_owned()] {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
        refused(50, &auth, &format!("{signed}.{signature}"), Why::UnknownKey).await;
        refused(50, &authenticator(config(rsa.jwks())), &format!("{signed}.{signature}"), Why::Algorithm).await;
    }
}

#[tokio::test]
async fn case_52_an_unknown_key_is_refused() {
    refused(52, &gateway(), &Key::new().sign(&claims()), Why::UnknownKey).await;
    refused(52, &gateway(), &Key::new().sign_under(&json!({"kid": KEY.signing.kid()})), Why::Signature).await;
}

#[tokio::test]
async fn case_53_a_kid_is_only_looked_up() {
    for kid in ["../../dev/null", "' OR 1=1 --", &"k".repeat(256)] {
        refused(53, &gateway(), &KEY.sign_under(&json!({"kid": kid})), Why::UnknownKey).await;
    }
    for kid in [json!(7), json!(["a"]), json!(""), json!("k".repeat(257)), json!(null)] {
        let why = if kid.is_null() { Why::Signature } else { Why::KeyId };
        refused(53, &gateway(), &Key::new().sign_under(&json!({"kid": kid})), why).await;
    }
    refused(53, &gateway(), &KEY.sign_under(&json!({"kid": "k".repeat(65_536)})), Why::TooLong).await;
}

#[tokio::test]
async fn a_kid_is_needed_once_there_are_several_keys() {
    let set = |keys: &[&Key]| {
        let one = |key: &&Key| serde_json::from_str::<Value>(&key.signing.jwks()).unwrap()["keys"][0].clone();
        json!({"keys": keys.iter().map(one).collect::<Vec<_>>()}).to_string()
    };
    let without = KEY.sign_under(&json!({"kid": null}));
    assert!(verify(&authenticator(config(set(&[&KEY]))), &without).await.is_ok());
    refused(53, &authenticator(config(set(&[&KEY, &Key::new()]))), &without, Why::KeyId).await;
}

#[tokio::test]
async fn case_55_an_extension_ends_it() {
    for more in [json!({"crit": ["exp"]}), json!({"crit": []}), json!({"b64": false}), json!({"b64": true})] {
        refused(55, &gateway(), &KEY.sign_under(&more), Why::Critical).await;
    }
}

#[tokio::test]
async fn case_56_another_kind_of_token_is_refused() {
    for typ in [json!("id+jwt"), json!("logout+jwt"), json!("dpop+jwt"), json!("JOSE"), json!(""), json!(1)] {
        refused(56, &gateway(), &KEY.sign_under(&json!({"typ": typ})), Why::Type).await;
    }
    for typ in ["JWT", "jwt", "at+jwt", "tidegate+jwt"] {
        assert!(verify(&gateway(), &KEY.sign_under(&json!({"typ": typ}))).await.is_ok(), "{typ}");
    }
    refused(56, &gateway(), &KEY.sign(&with("aud", json!("another-service"))), Why::Audience).await;
}

#[tokio::test]
async fn case_58_a_signature_that_does_not_fit_is_refused() {
    let token = KEY.sign(&claims());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    refused(58, &gateway(), &format!("{signed}."), Why::Encoding).await;
    refused(58, &gateway(), signed, Why::Encoding).await;
    let good = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        refused(58, &gateway(), &format!("{signed}.{}", part(bad)), Why::Signature).await;
    }
    for bad in [vec![0; 64], vec![0; 63], vec![0; 65], vec![0xff; 64], good[..32].to_vec()] {
        refused(58, &gateway(), &format!("{signed}.{}", part(bad)), Why::Signature).await;
    }
    let other = with("sub", json!("sensor-002")).to_string();
    let swapped = format!("{}.{}.{signature}", signed.split_once('.').unwrap().0, part(other));
    refused(58, &gateway(), &swapped, Why::Signature).await;
}

#[tokio::test]
async fn case_59_only_plain_base64url_is_read() {
    let token = KEY.sign(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    for junk in ["=", "==", " ", "\r\n", "\n", "\t", "+", "/", "\0", "ä", ".", ".."] {
        for at in 0..3 {
            for text in [format!("{}{junk}", parts[at]), format!("{junk}{}", parts[at])] {
                let mut bad: Vec<&str> = parts.clone();
                bad[at] = &text;
                let error = verify(&gateway(), &bad.join(".")).await.expect_err(&format!("{junk:?} at {at}"));
                assert!(matches!(error, AuthError::Unauthorized(Why::Encoding | Why::Header | Why::Claims)));
            }
        }
    }
    // Signed as it stands: what is refused is the writing, not the signature.
    let padded = format!("{}=", part(claims().to_string()));
    refused(59, &gateway(), &KEY.sign_parts(&part(KEY.header()), &padded), Why::Claims).await;
    for bad in ["", ".", "..", "...", "a.b.c", "a.b.c.d.e"] {
        assert!(verify(&gateway(), bad).await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn cases_61_and_62_dates_are_integers_and_begun() {
    refused(61, &gateway(), &KEY.sign(&with("nbf", json!(NOW + 31))), Why::NotYet).await;
    assert!(verify(&gateway(), &KEY.sign(&with("nbf", json!(NOW + 30)))).await.is_ok());
    for name in ["nbf", "exp", "iat"] {
        for bad in [json!((NOW + 5).to_string()), json!(1.5), json!(true), json!([NOW]), json!(-1)] {
            refused(62, &gateway(), &KEY.sign(&with(name, bad)), Why::Claims).await;
        }
        let payload = claims().to_string().replace('{', &format!("{{\"{name}x\":0,\"{name}\":1e9,"));
        assert!(verify(&gateway(), &KEY.sign_raw(KEY.header(), payload)).await.is_err(), "{name}");
    }
    refused(62, &gateway(), &KEY.sign(&with("exp", json!(null))), Why::Claims).await;
}

#[tokio::test]
async fn a_token_is_good_until_it_expires_and_the_leeway_more() {
    let (auth, token) = (gateway(), KEY.sign(&claims()));
    let last_ms = (NOW + 3_600 + 30) * 1_000 - 1;
    assert!(auth.verify(&token, last_ms).await.is_ok());
    assert_eq!(auth.verify(&token, last_ms + 1).await.unwrap_err(), AuthError::Unauthorized(Why::Expired));
    assert_eq!(gateway().verify(&token, last_ms + 1).await.unwrap_err(), AuthError::Unauthorized(Why::Expired));
}

#[tokio::test]
async fn case_64_a_lifetime_has_an_end() {
    refused(64, &gateway(), &KEY.sign(&with("exp", json!(u64::MAX))), Why::Claims).await;
    refused(64, &gateway(), &KEY.sign(&with("exp", json!(i64::MAX))), Why::Claims).await;
    refused(64, &gateway(), &KEY.sign(&with("exp", json!(NOW + 86_401))), Why::Lifetime).await;
    assert!(verify(&gateway(), &KEY.sign(&with("exp", json!(NOW + 86_400)))).await.is_ok());
    refused(64, &gateway(), &KEY.sign(&with("iat", json!(NOW + 31))), Why::NotYet).await;
    refused(64, &gateway(), &KEY.sign(&with("iat", json!(0))), Why::Lifetime).await;
    let mut no_iat = with("iat", json!(null));
    assert!(verify(&gateway(), &KEY.sign(&no_iat)).await.is_ok());
    no_iat["exp"] = json!(NOW + 86_401);
    refused(64, &gateway(), &KEY.sign(&no_iat), Why::Lifetime).await;
}

#[tokio::test]
async fn case_65_the_audience_is_us() {
    for bad in [json!(null), json!("Tidegate"), json!(""), json!(7), json!([]), json!(["x"]), json!(["tidegate", 7])] {
        refused(65, &gateway(), &KEY.sign(&with("aud", bad)), Why::Audience).await;
    }
    assert!(verify(&gateway(), &KEY.sign(&with("aud", json!(["x", "tidegate"])))).await.is_ok());
}

#[tokio::test]
async fn case_67_the_issuer_is_exactly_the_one_configured() {
    let url = "https://id.example.com";
    let auth = authenticator(AuthConfig { issuer: url.into(), ..config(KEY.signing.jwks()) });
    assert!(verify(&auth, &KEY.sign(&with("iss", json!(url)))).await.is_ok());
    for bad in [json!(null), json!(format!("{url}/")), json!("https://ID.example.com"), json!([url]), json!("")] {
        refused(67, &auth, &KEY.sign(&with("iss", bad)), Why::Issuer).await;
    }
}

#[tokio::test]
async fn case_68_a_name_that_stands_twice_is_refused() {
    let good = claims().to_string();
    let twice = |member: &str| good.replacen('{', &format!("{{{member},"), 1);
    let (sub, escaped) = (r#""sub":"sensor-001""#, r#""\u0073ub":"sensor-001""#);
    for member in [sub, escaped, r#""tenant":"other""#, r#""exp":1900000000"#] {
        refused(68, &gateway(), &KEY.sign_raw(KEY.header(), twice(member)), Why::Claims).await;
    }
    let header = KEY.header().replacen('{', r#"{"alg":"none","#, 1);
    refused(68, &gateway(), &KEY.sign_raw(header, &good), Why::Header).await;
}

#[tokio::test]
async fn case_70_an_issuer_speaks_for_its_own_tenants_and_with_its_own_keys() {
    let other = Key::new();
    let issuer = |name: &str, key: &Key, tenants: &[&str]| IssuerConfig {
        jwks: key.signing.jwks(),
        issuer: name.into(),
        tenants: tenants.iter().map(|tenant| (*tenant).to_owned()).collect(),
        ..IssuerConfig::default()
    };
    let issuers = vec![issuer("tidegate", &KEY, &["acme"]), issuer("b", &other, &["beta", "gamma"])];
    let auth = authenticator(AuthConfig { issuers, ..AuthConfig::default() });
    assert!(verify(&auth, &KEY.sign(&claims())).await.is_ok());
    refused(70, &auth, &KEY.sign(&with("tenant", json!("beta"))), Why::Tenant).await;
    let mut of_b = with("iss", json!("b"));
    refused(70, &auth, &other.sign(&of_b), Why::Tenant).await;
    of_b["tenant"] = json!("beta");
    assert!(verify(&auth, &other.sign(&of_b)).await.is_ok());
    refused(70, &auth, &KEY.sign(&of_b), Why::UnknownKey).await;
    // Without a tenant: the issuer's only one; of several, none.
    let verified = verify(&auth, &KEY.sign(&with("tenant", json!(null)))).await.unwrap();
    assert_eq!(verified.identity.key().tenant(), "acme");
    of_b.as_object_mut().unwrap().remove("tenant");
    refused(70, &auth, &other.sign(&of_b), Why::Tenant).await;
}

#[tokio::test]
async fn case_71_what_is_no_id_is_refused() {
    for bad in ["", "a{b", "a}b", "a:b", "a/b", "a\0", "a\n", "sens\u{43e}r", "*", &"x".repeat(129)] {
        for name in ["sub", "tenant"] {
            refused(71, &gateway(), &KEY.sign(&with(name, json!(bad))), Why::Subject).await;
        }
    }
    for (name, why) in [("sub", Why::Subject), ("tenant", Why::Tenant)] {
        for bad in [json!(7), json!(null), json!(["a"])] {
            refused(71, &gateway(), &KEY.sign(&with(name, bad)), why).await;
        }
    }
}

#[tokio::test]
async fn case_73_depth_costs_nothing() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(800), close.repeat(800));
        let payload = claims().to_string().replacen('{', &format!("{{\"x\":{deep},"), 1);
        refused(73, &gateway(), &KEY.sign_raw(KEY.header(), payload), Why::Claims).await;
        let header = KEY.header().replacen('{', &format!("{{\"x\":{deep},"), 1);
        refused(73, &gateway(), &KEY.sign_raw(header, claims().to_string()), Why::Header).await;
    }
}

#[tokio::test]
async fn case_74_claims_are_utf_8_and_one_object() {
    let mut bytes = claims().to_string().into_bytes();
    let at = bytes.windows(6).position(|window| window == b"sensor").unwrap();
    bytes[at] = 0xff;
    refused(74, &gateway(), &KEY.sign_raw(KEY.header(), bytes), Why::Claims).await;
    let unused = claims().to_string().replacen('{', "{\"x\":\"\\ud800\",", 1);
    for payload in ["", "null", "[]", "7", "{}{}", "{", unused.as_str()] {
        refused(74, &gateway(), &KEY.sign_raw(KEY.header(), payload), Why::Claims).await;
    }
}

#[tokio::test]
async fn a_token_is_at_most_8_kib() {
    let long = with("x", json!("y".repeat(8 * 1024)));
    refused(0, &gateway(), &KEY.sign(&long), Why::TooLong).await;
}

#[tokio::test]
async fn what_the_command_line_signs_the_gateway_takes() {
    let request = TokenRequest {
        sub: "console".into(),
        tenant: Some("acme".into()),
        scopes: vec!["telemetry:read".into(), "commands:write".into()],
        devices: vec!["sensor-*".into()],
        ttl_s: 60,
        issuer: "tidegate".into(),
        audience: "tidegate".into(),
    };
    let now = u64::try_from(NOW).unwrap();
    let token = KEY.signing.sign_token(&request, now).unwrap();
    let Identity::App(app) = verify(&gateway(), &token).await.unwrap().identity else { panic!("an app") };
    assert!(app.has(Scope::CommandsWrite) && !app.reaches_all() && app.may_reach_id("sensor-1"));
    for bad in [
        TokenRequest { sub: "a/b".into(), ..request.clone() },
        TokenRequest { scopes: vec!["two words".into()], ..request.clone() },
        TokenRequest { devices: vec!["[a]".into()], ..request.clone() },
        TokenRequest { ttl_s: 0, ..request.clone() },
    ] {
        assert!(matches!(KEY.signing.sign_token(&bad, now), Err(SigningError::Claim(_))), "{bad:?}");
    }
}

#[test]
fn a_configuration_that_cannot_work_says_so_at_the_start() {
    let refused = |config| Authenticator::new(config, TOKEN_BYTES, 100).err().expect("it cannot work").to_string();
    let set = KEY.signing.jwks();
    assert!(refused(AuthConfig::default()).contains("tidegate keys new"));
    assert!(refused(config("/no/such/jwks.json")).contains("/no/such/jwks.json"));
    assert!(refused(config("ftp://host/x")).contains("http://"));
    assert!(refused(config("{}")).contains("JSON Web Key Set"));
    assert!(refused(config("{\"keys\":[]}")).contains("no key that fits"));
    assert!(refused(AuthConfig { algorithms: vec![], ..config(&set) }).contains("algorithms"));
    assert!(refused(AuthConfig { tenants: vec!["a/b".into()], ..config(&set) }).contains("a/b"));
    assert!(refused(AuthConfig { max_lifetime_h: 0, ..config(&set) }).contains("max_lifetime_h"));
    let issuer = IssuerConfig { jwks: set.clone(), ..IssuerConfig::default() };
    assert!(refused(AuthConfig { issuers: vec![issuer.clone()], ..config(&set) }).contains("both set"));
    let twice = AuthConfig { issuers: vec![issuer.clone(), issuer], ..AuthConfig::default() };
    assert!(matches!(Authenticator::new(twice, 1, 1), Err(AuthSetupError::TwiceTheSameIssuer(_))));
}
