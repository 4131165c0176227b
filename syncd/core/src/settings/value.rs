//! Values of settings: between what is stored and sent, and GVariant.
//!
//! A value is kept as its type and its bytes in little-endian normal form, and equality is equality of these. What
//! comes from outside is checked before GLib makes anything of it.

use glib::{Variant, VariantTy, VariantType};
use hearth_schemas::item::{MAX_SETTING, SettingValue};

/// Why a value cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not the name of one type.
    #[error("not a type of settings")]
    Kind,
    /// Bytes that no writer makes for this type.
    #[error("a value that is not in normal form")]
    Form,
    /// Larger than a setting may be.
    #[error("a value larger than {MAX_SETTING} bytes")]
    TooLong,
}

/// The value as GLib holds it.
///
/// # Errors
/// When type and bytes do not make a value in normal form.
pub fn to_variant(value: &SettingValue) -> Result<Variant, ValueError> {
    if value.bytes.len() > MAX_SETTING || value.kind.len() > 255 {
        return Err(ValueError::TooLong);
    }
    let kind = VariantTy::new(&value.kind).map_err(|_| ValueError::Kind)?;
    if !kind.is_definite() {
        return Err(ValueError::Kind);
    }
    let variant = Variant::from_data_with_type(value.bytes.clone(), kind);
    let variant = if cfg!(target_endian = "big") { variant.byteswap() } else { variant };
    if variant.is_normal_form() { Ok(variant) } else { Err(ValueError::Form) }
}

/// What is stored and sent for a value that GLib holds.
pub fn from_variant(variant: &Variant) -> SettingValue {
    let normal = variant.normal_form();
    let normal = if cfg!(target_endian = "big") { normal.byteswap() } else { normal };
    SettingValue { kind: normal.type_().as_str().to_owned(), bytes: normal.data().to_vec() }
}

/// The value as GVariant text, with types where the text alone would be read differently.
pub fn text(value: &SettingValue) -> String {
    match to_variant(value) {
        Ok(variant) => variant.print(true).to_string(),
        Err(_) => format!("<unreadable {}>", value.kind),
    }
}

/// Reads GVariant text, as the type if one is given.
///
/// # Errors
/// When it is not such a text.
pub fn parse(text: &str, kind: Option<&str>) -> Result<SettingValue, ValueError> {
    let kind = kind.map(VariantType::new).transpose().map_err(|_| ValueError::Kind)?;
    let variant = Variant::parse(kind.as_deref(), text).map_err(|_| ValueError::Form)?;
    Ok(from_variant(&variant))
}

/// The same number as another type, if that type can hold it exactly.
pub fn convert(variant: &Variant, kind: &str) -> Option<Variant> {
    if variant.type_().as_str() == kind {
        return Some(variant.clone());
    }
    let number: i128 = match variant.type_().as_str() {
        "y" => variant.get::<u8>()?.into(),
        "n" => variant.get::<i16>()?.into(),
        "q" => variant.get::<u16>()?.into(),
        "i" => variant.get::<i32>()?.into(),
        "u" => variant.get::<u32>()?.into(),
        "x" => variant.get::<i64>()?.into(),
        "t" => variant.get::<u64>()?.into(),
        "d" => whole(variant.get::<f64>()?)?,
        _ => return None,
    };
    use glib::prelude::ToVariant;
    Some(match kind {
        "y" => u8::try_from(number).ok()?.to_variant(),
        "n" => i16::try_from(number).ok()?.to_variant(),
        "q" => u16::try_from(number).ok()?.to_variant(),
        "i" => i32::try_from(number).ok()?.to_variant(),
        "u" => u32::try_from(number).ok()?.to_variant(),
        "x" => i64::try_from(number).ok()?.to_variant(),
        "t" => u64::try_from(number).ok()?.to_variant(),
        "d" if number.unsigned_abs() <= 1 << 53 => (number as f64).to_variant(),
        _ => return None,
    })
}

/// The whole number that a floating-point number is.
fn whole(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 && !(number == 0.0 && number.is_sign_negative()))
        .then_some(number as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_byte_for_byte() {
        for source in ["'x'", "uint32 5", "@as []", "[@mi nothing, 3]", "{'b': <1>, 'a': <'x'>}", "(1, 2.5, [true])"] {
            let value = parse(source, None).expect("a value");
            assert_eq!(from_variant(&to_variant(&value).expect("normal")), value);
            assert_eq!(text(&value), source);
        }
    }

    #[test]
    fn what_no_writer_makes_is_refused() {
        let value = |kind: &str, bytes: &[u8]| SettingValue { kind: kind.to_owned(), bytes: bytes.to_vec() };
        assert_eq!(to_variant(&value("s", b"x")), Err(ValueError::Form));
        assert_eq!(to_variant(&value("u", b"x")), Err(ValueError::Form));
        assert_eq!(to_variant(&value("a*", b"")), Err(ValueError::Kind));
        assert_eq!(to_variant(&value("??", b"")), Err(ValueError::Kind));
        assert_eq!(to_variant(&value("", b"")), Err(ValueError::Kind));
        assert_eq!(to_variant(&value("s", &vec![b'x'; MAX_SETTING + 1])), Err(ValueError::TooLong));
    }

    #[test]
    fn numbers_convert_where_nothing_is_lost() {
        for (from, kind, to) in [
            ("5", "u", Some("uint32 5")),
            ("-5", "u", None),
            ("uint32 7", "x", Some("int64 7")),
            ("3", "d", Some("3.0")),
            ("3.0", "i", Some("3")),
            ("3.5", "i", None),
            ("-0.0", "i", None),
            ("int64 5000000000", "i", None),
            ("'3'", "i", None),
            ("true", "i", None),
        ] {
            let from = to_variant(&parse(from, None).expect("a value")).expect("normal");
            assert_eq!(convert(&from, kind).map(|to| to.print(true).to_string()).as_deref(), to, "{from} as {kind}");
        }
    }
}
