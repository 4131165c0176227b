//! Reads the tables of the policy: CSV with a heading, one row a line, `#` lines between them.
//!
//! Says only where a row is and what its fields are; [`crate::rules`] and [`crate::settings`] give them a meaning.

/// One row.
pub(crate) struct Row {
    /// Its line, from 1.
    pub(crate) line: u64,
    fields: csv::StringRecord,
}

impl Row {
    /// A field, as the heading counts them.
    pub(crate) fn get(&self, column: usize) -> &str {
        self.fields.get(column).unwrap_or_default()
    }
}

/// All rows of a table that has exactly these columns; else the first line that is wrong.
pub(crate) fn rows(text: &str, columns: &[&str]) -> Result<Vec<Row>, u64> {
    read(text, columns, None)
}

/// The same of a table that may have one column more, which a row may leave out.
pub(crate) fn rows_with_optional(text: &str, columns: &[&str], last: &str) -> Result<Vec<Row>, u64> {
    read(text, columns, Some(last))
}

fn read(text: &str, columns: &[&str], optional: Option<&str>) -> Result<Vec<Row>, u64> {
    let mut rows = Vec::new();
    let mut most = columns.len();
    let mut headed = false;
    for (line, content) in (1..).zip(text.lines()) {
        if content.starts_with('#') || content.trim().is_empty() {
            continue;
        }
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(content.as_bytes());
        let fields = reader.records().next().and_then(Result::ok).ok_or(line)?;
        if !headed {
            most += usize::from(optional.is_some() && fields.len() == columns.len() + 1);
            if !fields.iter().eq(columns.iter().copied().chain(optional).take(most)) {
                return Err(line);
            }
        }
        if fields.len() < columns.len() || fields.len() > most {
            return Err(line);
        }
        match headed {
            true => rows.push(Row { line, fields }),
            false => headed = true,
        }
    }
    if headed { Ok(rows) } else { Err(1) }
}
