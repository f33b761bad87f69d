//! Amounts of money as they are printed with `lc_monetary = C`: `-$1,234.50`.

use super::Bad;
use crate::encode::short::Short;

/// The amount as a plain decimal number.
pub(crate) fn plain(text: &[u8]) -> Result<Short, Bad> {
    let mut out = Short::new();
    // A 64-bit number of cents takes 28 characters at most.
    if text.len() > 40 {
        return Err(Bad::Malformed);
    }
    for byte in text {
        match byte {
            b'$' | b',' => {}
            b'-' | b'.' | b'0'..=b'9' => out.push(&[*byte]),
            _ => return Err(Bad::Malformed),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_separators_go_and_the_number_stays() {
        for (text, expected) in
            [("$0.00", "0.00"), ("-$1.50", "-1.50"), ("$92,233,720,368,547,758.07", "92233720368547758.07")]
        {
            assert_eq!(plain(text.as_bytes()).unwrap().as_slice(), expected.as_bytes());
        }
        assert!(plain("1,50 €".as_bytes()).is_err());
    }
}
