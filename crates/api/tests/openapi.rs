//! The description of the routes: complete, and the same as the file in the documentation.

use serde_json::Value;
use std::path::Path;
use stoa_api::{Access, ROUTES, openapi};

#[test]
fn every_route_is_described_with_its_credential_and_no_other_is() {
    let description = openapi::description();
    let mut described = 0;
    for route in ROUTES {
        let path = route.path.replace("{*", "{");
        let operation = &description["paths"][path][route.method.as_str().to_ascii_lowercase()];
        let security = operation["security"]
            .as_array()
            .expect("security is stated");
        assert_eq!(
            security.is_empty(),
            route.access == Access::Public,
            "{}",
            route.path
        );
        assert!(operation["summary"].is_string() && operation["responses"]["200"].is_object());
        described += 1;
    }
    let paths = description["paths"].as_object().expect("paths").values();
    let operations: usize = paths
        .map(|item| item.as_object().expect("methods").len())
        .sum();
    assert_eq!(operations, described);
}

#[test]
fn every_name_that_is_referred_to_is_defined_and_every_id_is_used_once() {
    let description = openapi::description();
    let (mut names, mut ids) = (Vec::new(), Vec::new());
    collect(&description, &mut names, &mut ids);
    for name in names {
        let defined =
            &description["components"]["schemas"][name.trim_start_matches("#/components/schemas/")];
        assert!(defined.is_object(), "{name}");
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), count), (ROUTES.len(), ROUTES.len()));
}

fn collect(value: &Value, names: &mut Vec<String>, ids: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("$ref", Value::String(text)) => names.push(text.clone()),
                    ("operationId", Value::String(text)) => ids.push(text.clone()),
                    _ => collect(value, names, ids),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names, ids)),
        _ => {}
    }
}

#[test]
fn the_file_in_the_documentation_is_the_description() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let text = openapi::text();
    if std::env::var_os("STOA_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        file == text,
        "docs/openapi.json is not the description of the routes; write it anew with \
         `STOA_WRITE_OPENAPI=1 cargo test -p stoa-api --test openapi`"
    );
}
