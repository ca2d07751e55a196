//! What goes to Redis and comes back, in types of our own: the client's stay in `store`.

use super::StoreError;

/// One argument of a command or a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg<'a> {
    /// Text or any bytes.
    Bytes(&'a [u8]),
    /// A number that is not negative, in decimal.
    Unsigned(u64),
    /// Any number, in decimal.
    Signed(i64),
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(text: &'a str) -> Self {
        Self::Bytes(text.as_bytes())
    }
}

impl<'a> From<&'a String> for Arg<'a> {
    fn from(text: &'a String) -> Self {
        Self::Bytes(text.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<u64> for Arg<'_> {
    fn from(number: u64) -> Self {
        Self::Unsigned(number)
    }
}

impl From<u32> for Arg<'_> {
    fn from(number: u32) -> Self {
        Self::Unsigned(number.into())
    }
}

impl From<i64> for Arg<'_> {
    fn from(number: i64) -> Self {
        Self::Signed(number)
    }
}

impl From<bool> for Arg<'_> {
    fn from(flag: bool) -> Self {
        Self::Unsigned(flag.into())
    }
}

/// What Redis answered. Lua's `false` and a missing key are both [`Value::Nil`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing there.
    Nil,
    /// A number.
    Int(i64),
    /// A string, or a status such as `OK`.
    Bytes(Vec<u8>),
    /// Several.
    List(Vec<Self>),
}

impl Value {
    /// The text, where it is one; of a number its digits.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for what is no text.
    pub fn text(self) -> Result<String, StoreError> {
        match self {
            Self::Bytes(bytes) => String::from_utf8(bytes).map_err(|_| StoreError::Malformed("text that is not UTF-8")),
            Self::Int(number) => Ok(number.to_string()),
            Self::Nil => Err(StoreError::Malformed("nothing where a text belongs")),
            Self::List(_) => Err(StoreError::Malformed("a list where a text belongs")),
        }
    }

    /// The text, or nothing where there is nothing.
    ///
    /// # Errors
    /// As [`Value::text`].
    pub fn optional_text(self) -> Result<Option<String>, StoreError> {
        if self == Self::Nil { Ok(None) } else { self.text().map(Some) }
    }

    /// The bytes as they are.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for what is no string.
    pub fn bytes(self) -> Result<Vec<u8>, StoreError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(StoreError::Malformed("something else where bytes belong")),
        }
    }

    /// A number that is not negative, also where it came as text: scripts write large ones with `%.0f`.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for anything else.
    pub fn unsigned(&self) -> Result<u64, StoreError> {
        let number = match self {
            Self::Int(number) => u64::try_from(*number).ok(),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()),
            _ => None,
        };
        number.ok_or(StoreError::Malformed("no number where a number belongs"))
    }

    /// The list's items; nothing is an empty list.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for what is no list.
    pub fn list(self) -> Result<Vec<Self>, StoreError> {
        match self {
            Self::List(items) => Ok(items),
            Self::Nil => Ok(Vec::new()),
            _ => Err(StoreError::Malformed("something else where a list belongs")),
        }
    }

    /// The list's items where it has exactly so many.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for what is no list or has another length.
    pub fn items<const N: usize>(self) -> Result<[Self; N], StoreError> {
        self.list()?.try_into().map_err(|_| StoreError::Malformed("a list of another length"))
    }
}

impl From<redis::Value> for Value {
    fn from(value: redis::Value) -> Self {
        match value {
            redis::Value::Int(number) => Self::Int(number),
            redis::Value::Boolean(flag) => Self::Int(flag.into()),
            redis::Value::BulkString(bytes) => Self::Bytes(bytes),
            redis::Value::SimpleString(text) => Self::Bytes(text.into_bytes()),
            redis::Value::VerbatimString { text, .. } => Self::Bytes(text.into_bytes()),
            redis::Value::Okay => Self::Bytes(b"OK".to_vec()),
            redis::Value::Double(number) => Self::Bytes(number.to_string().into_bytes()),
            redis::Value::Array(items) | redis::Value::Set(items) => {
                Self::List(items.into_iter().map(Self::from).collect())
            }
            redis::Value::Map(pairs) => Self::List(pairs.into_iter().flat_map(|(k, v)| [k.into(), v.into()]).collect()),
            redis::Value::Attribute { data, .. } => (*data).into(),
            // An error within a list, and what RESP2 never sends.
            _ => Self::Nil,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_of_sixteen_digits_is_read_exactly_from_text_and_number() {
        assert_eq!(Value::Bytes(b"9007199254740991".to_vec()).unsigned().unwrap(), 9_007_199_254_740_991);
        assert_eq!(Value::Int(1_748_522_701_234_567).unsigned().unwrap(), 1_748_522_701_234_567);
        for wrong in [Value::Nil, Value::Int(-1), Value::Bytes(b"1.7e15".to_vec()), Value::List(vec![])] {
            assert!(wrong.unsigned().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_list_of_another_length_is_an_error() {
        let list = Value::List(vec![Value::Int(1), Value::Nil]);
        assert_eq!(list.clone().items::<2>().unwrap(), [Value::Int(1), Value::Nil]);
        assert!(list.items::<3>().is_err());
    }
}
