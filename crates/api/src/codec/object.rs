//! Fields of a JSON object with the path that an error names. `null` is the same as absent everywhere.

use crate::error::ApiError;
use crate::json::{Json, clip};
use std::fmt::Display;

/// One object of the request and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Object<'a> {
    path: String,
    fields: &'a [(String, Json)],
}

/// `Invalid` for the field at `param`.
pub(super) fn invalid(param: impl Into<String>, reason: impl Into<String>) -> ApiError {
    ApiError::Invalid {
        param: param.into(),
        reason: reason.into(),
    }
}

/// `Unsupported` for the field at `param`.
pub(super) fn unsupported(param: impl Into<String>, reason: impl Into<String>) -> ApiError {
    ApiError::Unsupported {
        param: param.into(),
        reason: reason.into(),
    }
}

/// Text at `path`.
pub(super) fn text_at<'a>(value: &'a Json, path: &str) -> Result<&'a str, ApiError> {
    match value {
        Json::Text(text) => Ok(text),
        other => Err(invalid(
            path,
            format!("must be a string, not {}", other.kind()),
        )),
    }
}

/// Whole number at `path` within bounds. `3.0` is whole.
pub(super) fn integer_at(value: &Json, path: &str, min: i128, max: i128) -> Result<i128, ApiError> {
    let Json::Number(number) = value else {
        return Err(invalid(
            path,
            format!("must be an integer, not {}", value.kind()),
        ));
    };
    let whole = match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(n), ..) => Some(i128::from(n)),
        (_, Some(n), _) => Some(i128::from(n)),
        // Beyond this a float no longer names one integer; `as` is exact below it.
        (.., Some(f)) if f.fract() == 0.0 && f.abs() < 9e15 => Some(f as i128),
        _ => None,
    };
    match whole {
        Some(n) if (min..=max).contains(&n) => Ok(n),
        Some(_) => Err(out_of_range(path, min, max, number)),
        None if number.as_f64().is_some_and(|f| f.fract() == 0.0) => {
            Err(out_of_range(path, min, max, number))
        }
        None => Err(invalid(path, "must be an integer, not a fraction")),
    }
}

/// Number at `path` within bounds.
pub(super) fn number_at(value: &Json, path: &str, min: f64, max: f64) -> Result<f64, ApiError> {
    let Json::Number(number) = value else {
        return Err(invalid(
            path,
            format!("must be a number, not {}", value.kind()),
        ));
    };
    match number.as_f64() {
        Some(f) if (min..=max).contains(&f) => Ok(f),
        _ => Err(out_of_range(path, min, max, number)),
    }
}

fn out_of_range(path: &str, min: impl Display, max: impl Display, found: impl Display) -> ApiError {
    invalid(
        path,
        format!("must lie between {min} and {max}, not {found}"),
    )
}

impl<'a> Object<'a> {
    /// The body itself.
    pub(super) fn root(value: &'a Json) -> Result<Self, ApiError> {
        match value {
            Json::Object(fields) => Ok(Self {
                path: String::new(),
                fields,
            }),
            other => Err(ApiError::NotAnObject {
                found: other.kind(),
            }),
        }
    }

    /// The object at `path`.
    pub(super) fn at(value: &'a Json, path: String) -> Result<Self, ApiError> {
        match value {
            Json::Object(fields) => Ok(Self { path, fields }),
            other => Err(invalid(
                path,
                format!("must be an object, not {}", other.kind()),
            )),
        }
    }

    /// Path of a field of this object.
    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            clip(name, 64)
        } else {
            format!("{}.{}", self.path, clip(name, 64))
        }
    }

    /// Fields that are not `null`.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'a str, &'a Json)> + use<'a> {
        let present = self.fields.iter().filter(|(_, value)| *value != Json::Null);
        present.map(|(name, value)| (name.as_str(), value))
    }

    /// A field, unless it is absent or `null`.
    pub(super) fn get(&self, name: &str) -> Option<&'a Json> {
        self.fields()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// A field that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&'a Json, ApiError> {
        self.get(name).ok_or_else(|| ApiError::Missing {
            param: self.path(name),
        })
    }

    /// A text field.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name)
            .map(|value| text_at(value, &self.path(name)))
            .transpose()
    }

    /// A text field that must be there and say something.
    pub(super) fn required_text(&self, name: &str, length_max: usize) -> Result<&'a str, ApiError> {
        let text = text_at(self.required(name)?, &self.path(name))?;
        match text.chars().count() {
            0 => Err(invalid(self.path(name), "must not be empty")),
            n if n > length_max => Err(invalid(
                self.path(name),
                format!("must have at most {length_max} characters"),
            )),
            _ => Ok(text),
        }
    }

    /// A boolean field.
    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(invalid(
                self.path(name),
                format!("must be true or false, not {}", other.kind()),
            )),
        }
    }

    /// A whole number within bounds.
    pub(super) fn integer(
        &self,
        name: &str,
        min: i128,
        max: i128,
    ) -> Result<Option<i128>, ApiError> {
        self.get(name)
            .map(|value| integer_at(value, &self.path(name), min, max))
            .transpose()
    }

    /// A whole number that fits `u32`.
    pub(super) fn count(&self, name: &str) -> Result<Option<u32>, ApiError> {
        let count = self.integer(name, 0, i128::from(u32::MAX))?;
        Ok(count.map(|n| u32::try_from(n).expect("the range was checked")))
    }

    /// A number within bounds.
    pub(super) fn number(&self, name: &str, min: f64, max: f64) -> Result<Option<f64>, ApiError> {
        self.get(name)
            .map(|value| number_at(value, &self.path(name), min, max))
            .transpose()
    }

    /// An array field.
    pub(super) fn array(&self, name: &str) -> Result<Option<&'a [Json]>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Array(items)) => Ok(Some(items)),
            Some(other) => Err(invalid(
                self.path(name),
                format!("must be an array, not {}", other.kind()),
            )),
        }
    }

    /// An object field.
    pub(super) fn object(&self, name: &str) -> Result<Option<Object<'a>>, ApiError> {
        self.get(name)
            .map(|value| Object::at(value, self.path(name)))
            .transpose()
    }
}
