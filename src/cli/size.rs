//! Sizes as people write them: `4096`, `512K`, `1G`, `1.5GiB`.

/// Parses a size in bytes; suffixes count in powers of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" | "kb" => 10,
        "m" | "mib" | "mb" => 20,
        "g" | "gib" | "gb" => 30,
        "t" | "tib" | "tb" => 40,
        other => return Err(format!("unknown unit {other:?} (K, M, G or T)")),
    };
    let wrong = || "a size looks like 1G, 512M or 1048576".to_owned();
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let bytes = whole.checked_mul(1 << unit).ok_or("too large")?;
    if part.is_empty() {
        return Ok(bytes);
    }
    let fraction: f64 = format!("0.{part}").parse().map_err(|_| wrong())?;
    let rest = (fraction * (1u64 << unit) as f64) as u64;
    Ok(bytes.checked_add(rest).ok_or("too large")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("512K"), Ok(512 << 10));
        assert_eq!(parse("1g"), Ok(1 << 30));
        assert_eq!(parse("1.5GiB"), Ok(3 << 29));
        for wrong in [
            "",
            "G",
            "1X",
            "-1",
            "1.x",
            "99999999999T",
            "16777215.99999999999999999999T",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
