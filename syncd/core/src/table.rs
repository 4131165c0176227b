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
    let mut rows = Vec::new();
    let mut headed = false;
    for (line, content) in (1..).zip(text.lines()) {
        if content.starts_with('#') || content.trim().is_empty() {
            continue;
        }
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(content.as_bytes());
        let fields = reader.records().next().and_then(Result::ok).ok_or(line)?;
        if fields.len() != columns.len() || (!headed && !fields.iter().eq(columns.iter().copied())) {
            return Err(line);
        }
        match headed {
            true => rows.push(Row { line, fields }),
            false => headed = true,
        }
    }
    if headed { Ok(rows) } else { Err(1) }
}
