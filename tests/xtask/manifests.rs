//! What reads and judges the files of `docker/` and shares nothing with the daemon: a parser of YAML, the schemas of
//! Kubernetes, and Prometheus's own `promtool`. Each is downloaded when it is first needed, as servers are.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use crate::services::{Download, Origin, output, program_of};
use crate::{Context, Result};

const YAML: Download = Download {
    name: "yaml-0.18.15",
    from: Origin::Wheel("ruamel.yaml==0.18.15"),
    sums: include_str!("services/sums/yaml-0.18.15.sha256"),
};
const YAML_WHEEL: &str = "ruamel.yaml-0.18.15-py3-none-any.whl";
/// Refuses a key that stands twice, too.
const YAML_TO_JSON: &str = "import json, sys; from ruamel.yaml import YAML; \
    json.dump(list(YAML(typ='safe', pure=True).load_all(open(sys.argv[1]))), sys.stdout)";

const SCHEMAS: Download = Download {
    name: "kubernetes-schemas-1.37.0",
    from: Origin::Wheel("kubernetes-validate==1.37.0"),
    sums: include_str!("services/sums/kubernetes-schemas-1.37.0.sha256"),
};
const SCHEMAS_WHEEL: &str = "kubernetes_validate-1.37.0-py3-none-any.whl";
/// Of one version of Kubernetes, all kinds; a field that is not known is refused.
const DEFINITIONS: &str = "kubernetes_validate/kubernetes-json-schema/v1.33.0-local-strict/_definitions.json";
/// The wheel holds every version: one file of it is read instead of unpacking them all.
const MEMBER: &str =
    "import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";

/// The documents of a file of YAML.
pub fn yaml(file: &Path) -> Result<Vec<Json>> {
    let parser = YAML.unpacked(YAML_WHEEL, |_| Ok(()))?;
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", parser).args(["-c", YAML_TO_JSON]).arg(file);
    let json = output(&mut python).context(|| format!("{}", file.display()))?;
    serde_json::from_slice(&json).context(|| format!("{} as JSON", file.display()))
}

/// JSON Schemas of all kinds of Kubernetes, by their full names in `$defs`.
pub fn kubernetes_schemas() -> Result<Json> {
    let wheel = SCHEMAS.fetch()?.join(SCHEMAS_WHEEL);
    let mut python = Command::new("python3");
    python.args(["-c", MEMBER]).arg(&wheel).arg(DEFINITIONS);
    serde_json::from_slice(&output(&mut python)?).context(|| format!("{}", wheel.display()))
}

/// Judges rules, alerts and their tests as Prometheus does.
pub fn promtool() -> Result<PathBuf> {
    program_of("prometheus", "promtool")
}
