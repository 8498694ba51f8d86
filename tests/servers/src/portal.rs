//! A caller of the management API: a signed-in user.

use serde_json::{Value, json};

use crate::client::{Request, Response, Target};
use crate::keycloak::Admin;
use crate::owner::unique_name;
use crate::secrets;

const KEYS: &str = "/api/v1/api-keys";

/// A signed-in user, or a service account.
#[derive(Clone)]
pub struct Caller {
    pub id: String,
    pub username: String,
    pub token: String,
    pub gateway: Target,
}

impl Caller {
    /// A new user, just signed in.
    #[track_caller]
    pub fn new_user(admin: &Admin, gateway: &Target) -> Self {
        let username = unique_name("caller");
        let id = admin.create_user(&username, &json!({}));
        let password = json!({"type": "password", "value": username, "temporary": false});
        admin.must(
            "PUT",
            &format!("users/{id}/reset-password"),
            Some(&password),
        );
        Self {
            token: admin.password_token("key-console", &username, &username),
            id,
            username,
            gateway: gateway.clone(),
        }
    }

    /// The demo's operator, with the right to act for others.
    #[track_caller]
    pub fn operator(admin: &Admin, gateway: &Target) -> Self {
        let found = admin.get("users?exact=true&username=olga");
        Self {
            id: found[0]["id"].as_str().expect("olga").to_owned(),
            username: "olga".to_owned(),
            token: admin.password_token("key-console", "olga", "olga"),
            gateway: gateway.clone(),
        }
    }

    /// The demo's service principal.
    #[track_caller]
    pub fn service(admin: &Admin, gateway: &Target) -> Self {
        Self {
            id: admin.service_account_id("billing-service"),
            username: "service-account-billing-service".to_owned(),
            token: admin.client_token("billing-service", "billing"),
            gateway: gateway.clone(),
        }
    }

    pub fn get(&self, below: &str) -> Response {
        self.send(&Request::orders().at(&format!("{KEYS}{below}")))
    }

    pub fn delete(&self, below: &str) -> Response {
        let request = Request::orders().at(&format!("{KEYS}{below}"));
        self.send(&request.method("DELETE"))
    }

    pub fn post(&self, below: &str, body: &Value) -> Response {
        self.send(&post(below, body.to_string().as_bytes()))
    }

    /// Changes a key by a merge patch.
    pub fn patch(&self, below: &str, body: &Value) -> Response {
        let request = Request::orders()
            .at(&format!("{KEYS}{below}"))
            .post(body.to_string().into_bytes())
            .method("PATCH");
        self.send(&request.header("Content-Type", "application/merge-patch+json"))
    }

    fn send(&self, request: &Request) -> Response {
        let response = self.gateway.send(&request.clone().bearer(&self.token));
        if let Some(key) = response.json()["api_key"].as_str() {
            secrets::register(key);
        }
        response
    }

    /// Makes a key.
    #[track_caller]
    pub fn create(&self, body: &Value) -> Made {
        Made::of(&self.post("", body))
    }

    /// The keys that the API lists.
    #[track_caller]
    pub fn keys(&self) -> Vec<Value> {
        let answer = self.get("");
        assert_eq!(answer.status, 200, "{}", answer.describe());
        answer.json()["keys"].as_array().expect("keys").clone()
    }
}

/// A `POST` with a JSON body and no credential.
pub fn post(below: &str, body: &[u8]) -> Request {
    Request::orders()
        .at(&format!("{KEYS}{below}"))
        .post(body.to_vec())
        .header("Content-Type", "application/json")
}

/// A key that was made.
#[derive(Debug)]
pub struct Made {
    pub id: String,
    pub key: String,
    pub body: Value,
}

impl Made {
    #[track_caller]
    pub fn of(answer: &Response) -> Self {
        assert_eq!(answer.status, 201, "{}", answer.describe());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let body = answer.json();
        let text = |name: &str| body[name].as_str().expect(name).to_owned();
        Self {
            id: text("key_id"),
            key: text("api_key"),
            body,
        }
    }
}

/// A refusal of the management API; returns its request id.
#[track_caller]
pub fn expect_problem(answer: &Response, status: u16, code: &str) -> String {
    let seen = answer.describe();
    assert_eq!(answer.status, status, "{seen}");
    let body = answer.json();
    assert_eq!(body["code"], code, "{seen}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{seen}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{seen}");
    let challenged = answer.header("www-authenticate").is_some();
    assert_eq!(challenged, status == 401, "{seen}");
    body["request_id"].as_str().expect("an id").to_owned()
}
