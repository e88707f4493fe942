//! The page around the charts.

use std::fmt::Write;

use super::chart::{self, Axis};
use super::{Moment, Report};
use crate::cli::log::line;
use crate::history::chronicle::Sort;
use crate::history::totals::{Sum, ranked};

/// Lines of a table of sums.
const ROWS: usize = 15;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn html(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html><html lang='en'><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width,initial-scale=1'>\
         <title>journalfs report: {0}</title><style>{STYLE}</style><main>\
         <header><p class='kind'>journalfs report</p><h1>{0}</h1>\
         <p class='quiet'>Journal {1}. Made {2}{3}.</p></header>",
        escape(&report.subject),
        escape(&report.journal),
        line::utc(report.made),
        if report.mounted {
            ", beside the mount at work"
        } else {
            ""
        }
    );
    verdict(report, &mut out);
    tiles(report, &mut out);
    timeline(report, &mut out);
    syncs(report, &mut out);
    segments(report, &mut out);
    busiest(report, &mut out);
    moments(report, &mut out);
    out + "</main></html>\n"
}

fn verdict(report: &Report, out: &mut String) {
    let lines: Vec<String> = report.judgement.iter().map(|line| escape(line)).collect();
    let _ = write!(
        out,
        "<section class='verdict {0}'><h2>{0}</h2><p>{1}</p></section>",
        report.verdict,
        lines.join("<br>")
    );
    if report.chronicle.untold > 0 {
        let _ = write!(
            out,
            "<p class='warning'>{} records can’t be read or understood; everything below is without them.</p>",
            report.chronicle.untold
        );
    }
}

fn tiles(report: &Report, out: &mut String) {
    let (ticks, all) = (&report.chronicle.ticks, report.chronicle.totals.all);
    let span = match (ticks.first(), ticks.last()) {
        (Some(first), Some(last)) => nanos(last.time.nanos_since(first.time)),
        _ => "-".to_owned(),
    };
    let tile = |figure: &str, what: &str| format!("<div><b>{figure}</b><span>{what}</span></div>");
    let _ = write!(
        out,
        "<section class='tiles'>{}{}{}{}</section>",
        tile(&all.operations.to_string(), "operations"),
        tile(&bytes(all.bytes), "of file data written"),
        tile(&span, "from the first to the last"),
        tile(
            &report.chronicle.unsettled.to_string(),
            "operations not known to be durable"
        ),
    );
}

fn timeline(report: &Report, out: &mut String) {
    out.push_str("<section><h2>What was done, and when</h2>");
    let ticks = &report.chronicle.ticks;
    let Some(axis) = Axis::over(ticks.iter().map(|tick| tick.time)) else {
        out.push_str("<p class='quiet'>The journal has no operations.</p></section>");
        return;
    };
    let begun = ticks
        .first()
        .map_or(String::new(), |tick| line::utc(tick.time));
    let _ = write!(
        out,
        "<p class='quiet'>Operations and bytes of file data in each of 120 equal stretches from {begun} on.</p><p class='legend'>"
    );
    for sort in Sort::ALL {
        if ticks.iter().any(|tick| tick.sort == sort) {
            let _ = write!(
                out,
                "<span><i class='{}'></i>{}</span>",
                chart::class(sort),
                chart::name(sort)
            );
        }
    }
    let _ = write!(
        out,
        "</p><h3>Operations</h3><div class='chart'>{}</div><h3>Bytes written</h3><div class='chart'>{}</div></section>",
        chart::operations(&axis, ticks),
        chart::written(&axis, ticks)
    );
}

fn syncs(report: &Report, out: &mut String) {
    let settled = &report.chronicle.settled;
    out.push_str("<section><h2>How long changes stood unsynced</h2>");
    let mut exposed: Vec<u64> = settled.iter().map(|settled| settled.exposed).collect();
    exposed.sort_unstable();
    match Axis::over(settled.iter().map(|settled| settled.time)) {
        Some(axis) => {
            let at = |share: f64| nanos(exposed[((exposed.len() - 1) as f64 * share) as usize]);
            let _ = write!(
                out,
                "<p class='quiet'>Each dot is a moment at which the journal first says that records are durable: \
                 how old the oldest of them was by then. That is the sync and what waited for it, and at most a second \
                 more, since the word comes with the next record. Half within {}, 99 of 100 within {}, the longest {}.</p>\
                 <div class='chart'>{}</div>",
                at(0.5),
                at(0.99),
                at(1.0),
                chart::exposure(&axis, settled)
            );
        }
        None => out.push_str("<p class='quiet'>No sync is on record.</p>"),
    }
    requests(report, out);
    out.push_str("</section>");
}

/// What the mount says of its requests.
fn requests(report: &Report, out: &mut String) {
    if report.requests.is_empty() {
        return;
    }
    out.push_str(
        "<h3>Requests that the mount has served</h3><div class='chart'><table><thead><tr><th>request<th class='n'>count\
         <th class='n'>mean<th class='n'>99 of 100 within<th class='n'>slowest<th class='n'>errors</tr></thead>",
    );
    for counted in &report.requests {
        let within = counted
            .quantile(0.99)
            .map_or("-".to_owned(), |micros| nanos(micros * 1000));
        let _ = write!(
            out,
            "<tr><td>{}<td class='n'>{}<td class='n'>{}<td class='n'>{within}<td class='n'>{}<td class='n'>{}</tr>",
            escape(&counted.kind.to_string()),
            counted.count,
            nanos(counted.nanos / counted.count.max(1)),
            nanos(counted.slowest),
            counted.errors
        );
    }
    out.push_str("</table></div>");
}

fn segments(report: &Report, out: &mut String) {
    let marks = [
        ("in the image to", report.installed),
        ("durable to", report.durable),
        ("appended to", report.last),
    ];
    let _ = write!(
        out,
        "<section><h2>Segments</h2><p class='quiet'>As wide as they hold records. What is in the image is kept until its file is used again.</p>\
         <p class='legend'><span><i class='installed'></i>installed</span><span><i class='sealed'></i>sealed, still needed</span><span><i class='active'></i>active</span></p>\
         <div class='chart'>{}</div></section>",
        chart::segments(&report.segments, marks)
    );
}

fn busiest(report: &Report, out: &mut String) {
    let totals = &report.chronicle.totals;
    out.push_str("<section class='pair'>");
    let paths = ranked(&totals.paths).into_iter();
    sums(
        "Busiest paths",
        paths.map(|(path, sum)| (line::text(&path).into_owned(), sum)),
        out,
    );
    let processes = ranked(&totals.processes).into_iter();
    let name = |(program, pid): (Vec<u8>, u32)| format!("{}[{pid}]", line::text(&program));
    sums(
        "Busiest processes",
        processes.map(|(process, sum)| (name(process), sum)),
        out,
    );
    out.push_str("</section>");
}

fn sums(title: &str, all: impl Iterator<Item = (String, Sum)>, out: &mut String) {
    let rows: Vec<(String, Sum)> = all.collect();
    let most = rows
        .iter()
        .map(|(_, sum)| sum.bytes)
        .max()
        .unwrap_or(0)
        .max(1);
    let _ = write!(
        out,
        "<div><h2>{title}</h2><div class='chart'><table><thead><tr><th><th class='n'>operations<th class='n'>bytes</tr></thead>"
    );
    for (name, sum) in rows.iter().take(ROWS) {
        let _ = write!(
            out,
            "<tr><td class='path'>{}<s style='width:{:.1}%'></s><td class='n'>{}<td class='n'>{}</tr>",
            escape(name),
            sum.bytes as f64 / most as f64 * 100.0,
            sum.operations,
            bytes(sum.bytes)
        );
    }
    out.push_str("</table></div>");
    if let Some(more @ 1..) = rows.len().checked_sub(ROWS) {
        let _ = write!(
            out,
            "<p class='quiet'>and {more} more: journalfs log --stat</p>"
        );
    }
    out.push_str("</div>");
}

fn moments(report: &Report, out: &mut String) {
    let end = report.moments.back().map(|moment| moment.time);
    let _ = write!(
        out,
        "<section><h2>The last moments</h2><p class='quiet'>The last {} operations, newest last; times before the end.</p>\
         <div class='chart'><table class='moments'><thead><tr><th class='n'>record<th class='n'>before<th>operation<th>what<th>who<th></tr></thead>",
        report.moments.len()
    );
    for moment in &report.moments {
        let ago = end.map_or(0, |end| end.nanos_since(moment.time));
        let (class, word) = fate(moment);
        let _ = write!(
            out,
            "<tr class='{class}'><td class='n'>{}<td class='n'>{}<td>{}<td class='path'>{}<td>{}<td>{word}</tr>",
            moment.cells.lsn,
            nanos(ago),
            escape(moment.cells.kind),
            escape(&moment.cells.what),
            escape(&moment.cells.who)
        );
    }
    out.push_str("</table></div></section>");
}

fn fate(moment: &Moment) -> (&'static str, &'static str) {
    match (moment.dropped, moment.durable) {
        (true, _) => ("dropped", "behind a bad record: recovery drops it"),
        (false, true) => ("durable", "durable"),
        (false, false) => ("unsettled", "not known to be durable"),
    }
}

/// For HTML, in text and in attributes of any quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// `512 B`, `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// `840 µs`, `1.25 s`, `12 min`.
pub fn nanos(count: u64) -> String {
    let seconds = count as f64 / 1e9;
    match count {
        0 => "0".to_owned(),
        1..1_000_000 => format!("{:.0} µs", seconds * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", seconds * 1e3),
        1_000_000_000..120_000_000_000 => format!("{seconds:.2} s"),
        120_000_000_000..7_200_000_000_000 => format!("{:.1} min", seconds / 60.0),
        7_200_000_000_000..172_800_000_000_000 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_as_people_read_them() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3 << 19), "1.5 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(nanos(840_000), "840 µs");
        assert_eq!(nanos(1_250_000_000), "1.25 s");
        assert_eq!(nanos(3_600_000_000_000), "60.0 min");
    }

    #[test]
    fn a_name_stays_text_in_the_page() {
        assert_eq!(escape("<script>'\"&"), "&lt;script&gt;&#39;&quot;&amp;");
    }
}
