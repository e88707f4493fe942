//! `--prometheus`: the same in the text format that Prometheus and others
//! read (prometheus.io, "Exposition formats", version 0.0.4).

use std::fmt::Write as _;

use super::Status;
use crate::fuse::meter::{CLASSES, Counted};

/// One text, each metric with its help and type.
pub fn text(status: &Status) -> String {
    let image = escape(
        &status
            .image
            .as_deref()
            .unwrap_or(&status.journal)
            .to_string_lossy(),
    );
    let mut page = Page {
        text: String::new(),
        image,
    };
    page.flag("mounted", "Whether it is mounted.", Some(status.mounted));
    page.flag(
        "read_only",
        "Whether no changes are taken.",
        status.read_only,
    );
    page.flag(
        "guarded",
        "Whether the image lags behind its journal and stock tools refuse it.",
        status.guarded,
    );
    page.flag(
        "damaged",
        "Whether damage was met in the image.",
        status.mounted.then_some(status.damage.is_some()),
    );
    let marks = [
        ("checkpoint", status.checkpoint),
        ("durable", status.durable),
        ("written", status.written),
        ("appended", status.appended),
    ];
    page.head("record", "gauge", "Number of the last record that is in the image, on stable storage, in the host's cache, numbered.");
    for (mark, value) in marks {
        if let Some(value) = value {
            page.row("record", &format!(",mark=\"{mark}\""), value as f64);
        }
    }
    page.gauge(
        "lag_records",
        "Records that are not yet in the image.",
        status.lag,
    );
    page.gauge("segments", "Segments that hold records.", status.segments);
    page.gauge(
        "journal_bytes",
        "Bytes of these segments.",
        status.journal_bytes,
    );
    if let Some(recovery) = &status.recovery {
        let replayed = Some(recovery.operations);
        page.gauge(
            "recovered_operations",
            "Operations that the last recovery replayed.",
            replayed,
        );
    }
    requests(&mut page, &status.requests);
    page.text
}

fn requests(page: &mut Page, all: &[Counted]) {
    if all.is_empty() {
        return;
    }
    page.head(
        "request_errors_total",
        "counter",
        "Requests that were answered with an error.",
    );
    for counted in all {
        let label = format!(",op=\"{}\"", counted.kind);
        page.row("request_errors_total", &label, counted.errors as f64);
    }
    page.head(
        "request_duration_seconds",
        "histogram",
        "From a request's arrival until its answer.",
    );
    for counted in all {
        let mut sum = 0;
        for (at, count) in counted.classes.iter().enumerate().take(CLASSES - 1) {
            sum += count;
            let bound = (1u64 << at) as f64 / 1e6;
            let label = format!(",op=\"{}\",le=\"{bound}\"", counted.kind);
            page.row("request_duration_seconds_bucket", &label, sum as f64);
        }
        let label = format!(",op=\"{}\"", counted.kind);
        let all = format!("{label},le=\"+Inf\"");
        page.row(
            "request_duration_seconds_bucket",
            &all,
            counted.count as f64,
        );
        page.row(
            "request_duration_seconds_sum",
            &label,
            counted.nanos as f64 / 1e9,
        );
        page.row(
            "request_duration_seconds_count",
            &label,
            counted.count as f64,
        );
    }
}

struct Page {
    text: String,
    image: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.text,
            "# HELP journalfs_{name} {help}\n# TYPE journalfs_{name} {kind}"
        );
    }
    fn row(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(
            self.text,
            "journalfs_{name}{{image=\"{}\"{labels}}} {value}",
            self.image
        );
    }
    /// What isn't known is left out.
    fn gauge(&mut self, name: &str, help: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.head(name, "gauge", help);
            self.row(name, "", value as f64);
        }
    }
    fn flag(&mut self, name: &str, help: &str, value: Option<bool>) {
        self.gauge(name, help, value.map(u64::from));
    }
}

/// As a label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_names_are_escaped() {
        let mut classes = vec![0; CLASSES];
        (classes[0], classes[2], classes[CLASSES - 1]) = (3, 1, 1);
        let status = Status {
            image: Some("/a \"b\"\n".into()),
            mounted: true,
            lag: Some(7),
            requests: vec![Counted {
                kind: "write".to_owned(),
                count: 5,
                nanos: 2_500_000_000,
                classes,
                ..Counted::default()
            }],
            ..Status::default()
        };
        let text = text(&status);
        for line in [
            r#"journalfs_mounted{image="/a \"b\"\n"} 1"#,
            r#"journalfs_lag_records{image="/a \"b\"\n"} 7"#,
            r#"journalfs_request_duration_seconds_bucket{image="/a \"b\"\n",op="write",le="0.000001"} 3"#,
            r#"journalfs_request_duration_seconds_bucket{image="/a \"b\"\n",op="write",le="0.000004"} 4"#,
            r#"journalfs_request_duration_seconds_bucket{image="/a \"b\"\n",op="write",le="+Inf"} 5"#,
            r#"journalfs_request_duration_seconds_sum{image="/a \"b\"\n",op="write"} 2.5"#,
        ] {
            assert!(text.lines().any(|has| has == line), "{line}\n{text}");
        }
        // What isn't known is not there.
        assert!(!text.contains("journalfs_guarded"));
    }
}
