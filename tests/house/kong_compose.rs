//! Checks the files for docker compose, and the Dockerfile.
//!
//! These tests need no Docker engine. tests/kong/check.sh and tests/kong_plugin/check.sh let docker
//! compose itself read the files; the tests here check the required content.

use serde_json::{Map, Value, json};
use test_kit::repository::{read, root};

/// The demo of the Wasm filter, and the demo of the Lua plugin.
const DEMOS: [&str; 2] = [
    "docker-compose.yml",
    "deploy/compose-kong-plugin/docker-compose.yml",
];

#[test]
fn every_service_says_when_it_is_ready() {
    for (name, service) in DEMOS.into_iter().flat_map(services_of) {
        assert!(
            service["healthcheck"]["test"].is_array(),
            "{name} has no health check: `docker compose up --wait` would not wait for it"
        );
    }
}

#[test]
fn a_service_waits_until_what_it_needs_is_ready() {
    let mut waits = 0;
    for (name, service) in DEMOS.into_iter().flat_map(services_of) {
        let Some(needed) = service.get("depends_on") else {
            continue;
        };
        for (other, wait) in needed.as_object().unwrap() {
            assert_eq!(
                wait["condition"], "service_healthy",
                "{name} does not wait for {other}"
            );
            waits += 1;
        }
    }
    assert!(waits >= 12, "only {waits} waits");
}

#[test]
fn nothing_is_published_beyond_this_machine_and_each_port_can_be_moved() {
    let mut published = Vec::new();
    for (name, service) in DEMOS.into_iter().flat_map(services_of) {
        for port in texts(&service["ports"]) {
            assert!(
                port.starts_with("127.0.0.1:${"),
                "{name} publishes {port}; write 127.0.0.1:${{NAME:-port}}:port"
            );
            published.push(name.clone());
        }
    }
    assert_eq!(published, ["keycloak", "kong"].repeat(DEMOS.len()));
}

#[test]
fn every_variable_has_a_default() {
    let composes = DEMOS.map(read);
    let mut variables = 0;
    for part in composes.iter().flat_map(|text| text.split("${").skip(1)) {
        let inside = part.split('}').next().unwrap();
        if inside.starts_with('…') {
            continue;
        }
        assert!(
            inside.contains(":-"),
            "${{{inside}}} has no default, so the demo does not start without it"
        );
        variables += 1;
    }
    assert!(variables > 20, "found only {variables}");
}

#[test]
fn kong_gets_every_variable_that_its_files_take() {
    let environment = &services()["kong"]["environment"];
    for file in ["kong/kong.yml", "kong/nginx-apikeys.conf"] {
        for name in taken(file) {
            // The loopback address is of use outside of a container alone.
            if name != "APIKEYS_LISTEN" {
                assert!(
                    environment.get(&name).is_some(),
                    "{file} takes {name}, and docker-compose.yml does not pass it"
                );
            }
        }
    }
}

#[test]
fn the_seeds_variables_reach_kong() {
    let taken = taken("kong/kong.yml");
    for name in [
        "API_KEY_ENABLED",
        "API_KEY_STORAGE",
        "API_KEY_HASH_ALGORITHM",
        "API_KEY_PREFIX",
        "API_KEY_MAX_PER_USER",
        "API_KEY_EXCHANGE_CACHE_TTL",
    ] {
        assert!(
            taken.iter().any(|taken| taken == name),
            "{name} is not taken"
        );
        assert_eq!(
            services()["kong"]["environment"][name],
            format!("${{{name}:-}}")
        );
    }
}

#[test]
fn new_keys_are_made_as_the_filter_expects_them() {
    let setup = &services()["setup"]["environment"];
    for name in [
        "API_KEY_PREFIX",
        "API_KEY_HASH_ALGORITHM",
        "API_KEY_MAX_PER_USER",
    ] {
        assert_eq!(setup[name], format!("${{{name}:-}}"));
    }
}

#[test]
fn kong_runs_the_filter_without_a_database() {
    let services = services();
    let environment = &services["kong"]["environment"];
    assert_eq!(environment["KONG_DATABASE"], "off");
    assert_eq!(environment["KONG_WASM"], "on");
    assert_eq!(
        environment["KONG_WASM_FILTERS_PATH"],
        "/opt/apikeys/filters"
    );
    assert!(environment["KONG_NGINX_WASM_SHM_KV"].is_string());
    assert!(
        read("deploy/Dockerfile").contains("COPY --from=wasm / /opt/apikeys/filters/"),
        "the filter and its schema lie where Kong looks for them"
    );
}

#[test]
fn the_signing_key_reaches_kong_by_a_file_that_only_setup_and_kong_see() {
    for (name, service) in services() {
        let mounts = texts(&service["volumes"]);
        let sees = |volume: &str| mounts.iter().any(|mount| mount.starts_with(volume));
        assert_eq!(sees("secret:"), name == "setup" || name == "kong", "{name}");
        assert_eq!(sees("keys:"), name == "setup", "{name}");
        for (variable, _) in service["environment"].as_object().into_iter().flatten() {
            assert!(!variable.contains("SIGNING_KEY"), "{name}: {variable}");
        }
    }
    let kong = &services()["kong"];
    assert_eq!(
        kong["environment"]["KONG_NGINX_PROXY_INCLUDE"],
        "/secret/signing-key.conf"
    );
    let group = &services()["setup"]["environment"]["KONG_GROUP"];
    assert_eq!(&kong["group_add"][0], group);
}

#[test]
fn an_emptied_header_does_not_reach_the_service() {
    let kong = &services()["kong"];
    let include = "/opt/apikeys/nginx-location.conf";
    assert_eq!(kong["environment"]["KONG_NGINX_LOCATION_INCLUDE"], include);
    let mount = format!("./kong/nginx-location.conf:{include}:ro");
    assert!(texts(&kong["volumes"]).contains(&mount));
    assert!(read("deploy/Dockerfile").lines().any(|line| {
        line.starts_with("COPY ") && line.contains(" kong/nginx-location.conf /opt/apikeys/")
    }));
    // The names that the filter's `headers` has by default, but the one that carries the JWT.
    let file = read("kong/nginx-location.conf");
    let directives: Vec<&str> = file
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    assert_eq!(directives, ["proxy_set_header X-API-Key \"\";"]);
}

#[test]
fn kongs_log_is_at_a_level_without_headers_and_bounded() {
    let kong = &services()["kong"];
    assert_eq!(
        kong["environment"]["KONG_LOG_LEVEL"], "${KONG_LOG_LEVEL:-notice}",
        "at info nginx logs a header that comes twice, with its value"
    );
    assert_eq!(kong["logging"]["driver"], "local");
}

#[test]
fn a_body_that_never_comes_ends_the_request() {
    let limit = &services()["kong"]["environment"]["KONG_NGINX_PROXY_CLIENT_BODY_TIMEOUT"];
    assert_eq!(limit, "10s");
}

#[test]
fn one_issuer_is_named_by_everybody() {
    for (demo, gateway) in DEMOS.into_iter().zip(["kong", "serve"]) {
        let services = services_of(demo);
        let url = &services["keycloak"]["environment"]["KC_HOSTNAME"];
        assert_eq!(&services[gateway]["environment"]["KEYCLOAK_URL"], url);
        assert_eq!(&services["setup"]["environment"]["KEYCLOAK_URL"], url);
        assert_eq!(
            services["service"]["environment"]["KEYCLOAK_ISSUER"],
            format!("{}/realms/demo", url.as_str().unwrap())
        );
    }
}

#[test]
fn the_plugin_lies_where_kong_looks_and_asks_the_service_of_its_network() {
    let services = services_of(DEMOS[1]);
    let kong = &services["kong"];
    assert_eq!(kong["environment"]["KONG_DATABASE"], "off");
    assert_eq!(
        kong["environment"]["KONG_PLUGINS"],
        "bundled,apikey-jwt-exchange"
    );
    let path = kong["environment"]["KONG_LUA_PACKAGE_PATH"].as_str();
    assert!(path.unwrap().starts_with("/opt/?.lua;"), "{path:?}");
    assert!(
        texts(&kong["volumes"]).contains(&"../../kong/plugins:/opt/kong/plugins:ro".to_owned())
    );
    assert!(
        root()
            .join("kong/plugins/apikey-jwt-exchange/handler.lua")
            .is_file()
    );
    assert_eq!(
        kong["environment"]["KONG_LOG_LEVEL"],
        "${KONG_LOG_LEVEL:-notice}"
    );

    let beside = |name: &str| -> Value {
        let path = DEMOS[1].replace("docker-compose.yml", name);
        serde_norway::from_str(&read(&path)).unwrap()
    };
    let (kong, serve) = (beside("kong.yml"), beside("serve.yml"));
    let plugin = &kong["services"][0]["plugins"][0];
    assert_eq!(plugin["name"], "apikey-jwt-exchange");
    assert_eq!(plugin["config"]["url"], "http://serve:8181/exchange");
    assert_eq!(serve["listen"], json!(["0.0.0.0:8181"]));
    assert_eq!(
        serve["removes_headers"], true,
        "the plugin removes each header that an answer names"
    );
}

#[test]
fn every_mounted_file_exists() {
    let mut files = 0;
    for demo in DEMOS {
        let folder = root().join(demo);
        for (name, service) in services_of(demo) {
            for mount in texts(&service["volumes"]) {
                let source = mount.split(':').next().unwrap();
                if source.starts_with('.') {
                    let path = folder.parent().unwrap().join(source);
                    assert!(path.exists(), "{name} mounts {source}");
                    files += 1;
                }
            }
        }
    }
    assert!(files >= 16, "only {files} files");
}

#[test]
fn every_image_is_pinned() {
    let mut images: Vec<String> = (DEMOS.into_iter().flat_map(services_of))
        .filter_map(|(_, service)| service["image"].as_str().map(str::to_owned))
        .collect();
    for line in read("deploy/Dockerfile").lines() {
        if let Some(rest) = line.strip_prefix("FROM ") {
            images.push(rest.split(' ').next().unwrap().to_owned());
        }
    }
    assert!(images.iter().any(|image| image == "kong:3.9"));
    for image in images {
        let tag = image.rsplit_once(':').map(|(_, tag)| tag);
        assert!(
            image == "scratch" || tag.is_some_and(|tag| tag != "latest"),
            "{image} has no version"
        );
    }
}

#[test]
fn the_build_is_given_all_that_it_copies() {
    let let_in: Vec<String> = read("deploy/Dockerfile.dockerignore")
        .lines()
        .filter_map(|line| line.strip_prefix('!').map(str::to_owned))
        .collect();
    for line in read("deploy/Dockerfile").lines() {
        let Some(arguments) = line.strip_prefix("COPY ") else {
            continue;
        };
        if arguments.contains("--from=") || arguments == ". ." {
            continue;
        }
        let paths: Vec<&str> = arguments
            .split(' ')
            .filter(|word| !word.starts_with("--"))
            .collect();
        for path in &paths[..paths.len() - 1] {
            assert!(root().join(path).exists(), "there is no {path}");
            let top = path.split('/').next().unwrap();
            assert!(let_in.iter().any(|each| each == top), "{path} is ignored");
        }
    }
    for needed in ["Cargo.toml", "Cargo.lock", "src", "crates", "tests"] {
        assert!(
            let_in.iter().any(|each| each == needed),
            "{needed} is ignored"
        );
    }
}

// --- how the files are read --------------------------------------------------

fn services() -> Map<String, Value> {
    services_of(DEMOS[0])
}

fn services_of(path: &str) -> Map<String, Value> {
    let compose: Value = serde_norway::from_str(&read(path)).unwrap();
    compose["services"].as_object().unwrap().clone()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|each| each.as_str().unwrap().to_owned())
        .collect()
}

/// The variables that `kong/render.sh` writes into a file.
fn taken(path: &str) -> Vec<String> {
    read(path)
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once("# takes "))
        .map(|(_, rest)| {
            rest.chars()
                .take_while(|each| each.is_ascii_uppercase() || *each == '_')
                .collect()
        })
        .collect()
}
