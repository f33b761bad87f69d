//! Decimal128 as text, by the rules of MongoDB's specification: IEEE 754-2008 in its binary form.

/// Ten to the power of 34, above which digits do not count.
const COEFFICIENT_LIMIT: u128 = 10_u128.pow(34);
const EXPONENT_BIAS: i32 = 6176;

/// Adds the number as every driver prints it.
pub fn put(bytes: &[u8; 16], out: &mut Vec<u8>) {
    let bits = u128::from_le_bytes(*bytes);
    if bits >> 122 & 0x1f == 0x1f {
        return out.extend_from_slice(b"NaN");
    }
    if bits >> 127 == 1 {
        out.push(b'-');
    }
    if bits >> 122 & 0x1f == 0x1e {
        return out.extend_from_slice(b"Infinity");
    }
    // With both bits set the coefficient is beyond 34 digits, and that stands for zero.
    let (exponent_bits, coefficient) = if bits >> 125 & 3 == 3 {
        (bits >> 111 & 0x3fff, 0)
    } else {
        (bits >> 113 & 0x3fff, bits & ((1 << 113) - 1))
    };
    let coefficient = if coefficient >= COEFFICIENT_LIMIT { 0 } else { coefficient };
    // Fourteen bits.
    let exponent = i32::try_from(exponent_bits).unwrap_or(0) - EXPONENT_BIAS;
    put_number(coefficient.to_string().as_bytes(), exponent, out);
}

fn put_number(digits: &[u8], exponent: i32, out: &mut Vec<u8>) {
    // At most 34 digits.
    let count = i32::try_from(digits.len()).unwrap_or(0);
    let adjusted = exponent + count - 1;
    if exponent > 0 || adjusted < -6 {
        let (first, rest) = digits.split_at(1);
        out.extend_from_slice(first);
        if !rest.is_empty() {
            out.push(b'.');
            out.extend_from_slice(rest);
        }
        return out.extend_from_slice(format!("E{adjusted:+}").as_bytes());
    }
    if exponent == 0 {
        return out.extend_from_slice(digits);
    }
    let whole = count + exponent;
    match usize::try_from(whole) {
        Ok(whole) if whole > 0 => {
            let (whole, fraction) = digits.split_at(whole);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        _ => {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', usize::try_from(-whole).unwrap_or(0)));
            out.extend_from_slice(digits);
        }
    }
}
