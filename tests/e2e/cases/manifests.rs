//! The compose file and the manifests for Kubernetes, without an engine for either: what they name is there, what they
//! promise is in them, and what they start does start.

use std::fs;
use std::path::{Path, PathBuf};

use millrace_e2e::File;
use serde_json::{Value as Json, json};
use xtask::manifests::{kubernetes_schemas, yaml};
use xtask::services::repository;

use super::image::{Dockerfile, Image};

/// Where Millrace listens in all of them.
const PORT: &str = "8083";
const DATABASES: [&str; 5] = ["auditdb", "eventdb", "eventstore", "registrationdb", "userdb"];

fn docker(path: &str) -> PathBuf {
    repository().join("docker").join(path)
}

/// The services of the compose file, by name.
fn compose() -> Json {
    let mut documents = yaml(&docker("compose.yaml")).expect("a file of YAML");
    assert_eq!(documents.len(), 1);
    documents[0]["services"].take()
}

fn members(json: &Json) -> impl Iterator<Item = (&str, &Json)> {
    json.as_object().into_iter().flatten().map(|(key, value)| (&**key, value))
}

fn items(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}

fn texts(json: &Json) -> Vec<String> {
    items(json).map(|item| item.as_str().expect("a text").to_owned()).collect()
}

/// The connectors' files of the lab, which are what is run.
fn lab() -> String {
    DATABASES.map(|name| File::text_of_configs(&format!("lab/{name}.toml"))).concat()
}

/// What the lab's files take out of the environment.
fn secrets() -> Vec<String> {
    let text = lab();
    let names = text.split("${env:").skip(1).filter_map(|rest| rest.split('}').next());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// Hosts and ports of the servers that the lab's files name, but for what is said of no port.
fn servers() -> Vec<(String, Option<String>)> {
    let text = lab();
    let urls = text.lines().filter_map(|line| line.strip_prefix("url = \"")?.split('@').nth(1));
    let brokers = text.lines().filter_map(|line| line.strip_prefix("bootstrap = [\""));
    let found = urls.chain(brokers).map(|rest| rest.split(['/', '"', '?']).next().unwrap_or_default());
    found
        .map(|server| match server.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port.to_owned())),
            None => (server.to_owned(), None),
        })
        .collect()
}

#[test]
fn every_service_of_the_compose_file_has_a_pinned_image_and_what_it_mounts_and_waits_for() {
    let services = compose();
    for (name, service) in members(&services) {
        match service["image"].as_str() {
            Some(image) => {
                let tag =
                    image.rsplit_once(':').map(|(_, tag)| tag.trim_start_matches('v')).unwrap_or_default();
                assert!(tag.starts_with(|c: char| c.is_ascii_digit()), "{name}: {image} is not pinned");
            }
            None => {
                let context = docker(service["build"]["context"].as_str().expect("a folder"));
                let file = context.join(service["build"]["dockerfile"].as_str().expect("a file"));
                assert_eq!(file.canonicalize().ok(), docker("Dockerfile").canonicalize().ok(), "{name}");
            }
        }
        for volume in texts(&service["volumes"]) {
            let from = volume.split(':').next().expect("a path");
            assert!(
                from.starts_with('.') && docker(from).exists(),
                "{name} mounts {from}, which is not there"
            );
            assert!(volume.ends_with(":ro"), "{name} may write {from}");
        }
        let plain = items(&service["depends_on"]).map(|other| (other.as_str().expect("a name"), &Json::Null));
        for (other, how) in members(&service["depends_on"]).chain(plain) {
            let other = services.get(other).unwrap_or_else(|| panic!("{name} waits for {other}"));
            let is_checked = how["condition"] != "service_healthy" || other["healthcheck"].is_object();
            assert!(is_checked, "{name} waits until something is healthy that nobody checks");
        }
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to the network");
        }
    }
}

#[test]
fn the_compose_file_gives_millrace_what_the_lab_s_files_ask_for_and_its_neighbours_find_it() {
    let (services, dockerfile) = (compose(), Dockerfile::read());
    let millrace = &services["millrace"];
    let words = dockerfile.list("CMD");
    assert!(texts(&millrace["command"]).starts_with(&words), "{}", millrace["command"]);
    assert_eq!(texts(&millrace["volumes"]), [format!("../configs/lab:{}:ro", words[1])]);
    assert_eq!((&millrace["read_only"], &millrace["cap_drop"]), (&json!(true), &json!(["ALL"])));
    assert_eq!((&millrace["mem_limit"], &millrace["cpus"]), (&json!("512m"), &json!(0.5)));
    for secret in secrets() {
        assert!(millrace["environment"][&secret].is_string(), "{secret} is not set");
    }
    for (host, port) in servers() {
        let server = services.get(&host).unwrap_or_else(|| panic!("no service {host}"));
        let listeners = server["environment"]["KAFKA_LISTENERS"].as_str().unwrap_or_default();
        let port = port.unwrap_or_default();
        assert!(host != "kafka" || listeners.contains(&format!("://:{port},")), "{host}:{port}");
    }
    // What reads Millrace is beside it and not on its loopback.
    let lab = lab();
    assert!(lab.contains(&format!("listen = \"0.0.0.0:{PORT}\"")) && lab.contains("open_reading = true"));
    assert_eq!(dockerfile.last("EXPOSE"), PORT);
    assert_eq!(texts(&millrace["ports"]), [format!("127.0.0.1:{PORT}:{PORT}")]);
    let prometheus = yaml(&docker("prometheus/prometheus.yml")).expect("a file of YAML");
    let targets = &prometheus[0]["scrape_configs"][0]["static_configs"][0]["targets"];
    assert_eq!(targets, &json!([format!("millrace:{PORT}")]));
    let connect = &services["kafka-ui"]["environment"]["KAFKA_CLUSTERS_0_KAFKACONNECT_0_ADDRESS"];
    assert_eq!(connect, &json!(format!("http://millrace:{PORT}")));
    let (collector, jaeger) = (&millrace["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"], &services["jaeger"]);
    assert_eq!(collector, "http://jaeger:4318");
    assert_eq!(jaeger["environment"]["COLLECTOR_OTLP_ENABLED"], "true");
}

#[tokio::test]
async fn the_image_starts_with_the_command_the_folder_and_the_environment_of_the_compose_file() {
    let services = compose();
    let millrace = &services["millrace"];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let image = Image::build(dir.path());
    for volume in texts(&millrace["volumes"]) {
        let (from, to) = volume.trim_end_matches(":ro").split_once(':').expect("two paths");
        copy_files(&docker(from), &image.inside(to));
    }
    let collector = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let names = members(&millrace["environment"]).map(|(name, _)| name).filter(|name| *name != collector);
    let environment: Vec<_> = names.map(|name| (name, "secret")).collect();
    let log = dir.path().join("compose.log");
    let mut daemon = image.start(&texts(&millrace["command"]), &environment, &log).await;
    assert_eq!(daemon.json("/connectors").await, json!(DATABASES));
    assert!(image.is_healthy(&daemon.address), "its health is not that of the servers, which are not there");
    let log = fs::read_to_string(&log).expect("its log");
    for line in log.lines() {
        assert!(serde_json::from_str::<Json>(line).is_ok(), "no line of JSON: {line}");
    }
    assert!(daemon.stop().await, "{log}");
}

/// What lies in a folder; folders in it are not read by the daemon, and no part of a ConfigMap either.
fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

/// The manifests, each by its kind.
fn manifest(kind: &str) -> Json {
    let mut documents = yaml(&docker("kubernetes/millrace.yaml")).expect("a file of YAML").into_iter();
    documents.find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// Why Kubernetes would refuse it.
fn refusals(schemas: &Json, manifest: &Json) -> Vec<String> {
    let version = manifest["apiVersion"].as_str().expect("a version");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let wanted = json!({"group": group, "kind": manifest["kind"], "version": version});
    let is_of_kind =
        |schema: &Json| items(&schema["x-kubernetes-group-version-kind"]).any(|kind| *kind == wanted);
    let name = members(&schemas["$defs"]).find(|(_, schema)| is_of_kind(schema)).map(|(name, _)| name);
    let name = name.unwrap_or_else(|| panic!("Kubernetes knows no {wanted}"));
    let schema = json!({"$ref": format!("#/$defs/{name}"), "$defs": schemas["$defs"]});
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    validator.iter_errors(manifest).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn kubernetes_takes_each_manifest_and_refuses_one_with_a_field_that_it_does_not_know() {
    let schemas = kubernetes_schemas().expect("the schemas of Kubernetes");
    let manifests = yaml(&docker("kubernetes/millrace.yaml")).expect("a file of YAML");
    assert_eq!(manifests.len(), 3);
    for manifest in &manifests {
        assert_eq!(refusals(&schemas, manifest), [""; 0]);
    }
    let mut wrong = manifest("Deployment");
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = json!({});
    wrong["spec"]["replicas"] = json!("one");
    assert_eq!(refusals(&schemas, &wrong).len(), 2);
}

#[test]
fn the_deployment_has_the_probes_limits_rights_and_secrets_of_the_lab() {
    let (deployment, dockerfile) = (manifest("Deployment"), Dockerfile::read());
    let (spec, pod) = (&deployment["spec"], &deployment["spec"]["template"]);
    let container = &pod["spec"]["containers"][0];
    let probe = |name: &str| {
        let probe = &container[name];
        let (get, seconds) = (&probe["httpGet"], |key: &str| probe[key].as_u64());
        assert_eq!(get["port"], "metrics");
        (get["path"].clone(), seconds("initialDelaySeconds"), seconds("periodSeconds"))
    };
    assert_eq!(probe("livenessProbe"), (json!("/health"), Some(30), Some(10)));
    assert_eq!(probe("readinessProbe"), (json!("/ready"), Some(5), Some(5)));
    let resources = json!({
        "requests": {"memory": "256Mi", "cpu": "250m"},
        "limits": {"memory": "512Mi", "cpu": "500m"},
    });
    assert_eq!(container["resources"], resources);
    let port: u16 = PORT.parse().expect("a port");
    assert_eq!(container["ports"], json!([{"name": "metrics", "containerPort": port}]));
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], PORT);
    // A slot has one reader, and a second pod would take it from the first one in the middle of its work.
    assert_eq!((&spec["replicas"], &spec["strategy"]["type"]), (&json!(1), &json!("Recreate")));

    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    let user = &pod["spec"]["securityContext"];
    assert_eq!(user["runAsNonRoot"], true);
    assert_eq!(format!("{}:{}", user["runAsUser"], user["runAsGroup"]), dockerfile.last("USER"));
    let words = dockerfile.list("CMD");
    assert!(texts(&container["args"]).starts_with(&words), "{}", container["args"]);
    assert_eq!(container["volumeMounts"][0]["mountPath"], words[1]);
    for secret in secrets() {
        let set = items(&container["env"]).find(|set| set["name"] == secret);
        let set = set.unwrap_or_else(|| panic!("{secret} is not set"));
        assert!(set["valueFrom"]["secretKeyRef"]["name"].is_string() && set["value"].is_null(), "{set}");
    }
}

#[test]
fn the_network_policy_lets_the_daemon_reach_the_lab_s_servers_and_names_and_nothing_else() {
    let policy = manifest("NetworkPolicy");
    let ports: Vec<u64> = items(&policy["spec"]["egress"])
        .flat_map(|rule| items(&rule["ports"]).filter_map(|port| port["port"].as_u64()))
        .collect();
    // Names over UDP and over TCP.
    assert_eq!(ports, [9092, 5432, 27017, 53, 53]);
    for (host, port) in servers() {
        let port = port.map(|port| port.parse::<u64>().expect("a port"));
        let reaches = |rule: &&Json| {
            let to = &rule["to"][0]["podSelector"]["matchLabels"]["app"];
            *to == *host && port.is_none_or(|port| rule["ports"][0]["port"] == port)
        };
        assert!(items(&policy["spec"]["egress"]).any(|rule| reaches(&rule)), "{host} is out of reach");
    }
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["ingress"][0]["ports"], json!([{"port": "metrics"}]));
    let labels = &manifest("Deployment")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], labels);
    assert_eq!(&manifest("Service")["spec"]["selector"], labels);
}
