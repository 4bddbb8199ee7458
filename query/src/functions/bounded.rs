//! Functions that make long texts out of short ones, with a bound.
//!
//! `repeat('x', 2000000000)` takes two gigabytes, and a text made by a function is not in the books of the memory
//! pool. So the length of what `repeat`, `lpad` and `rpad` would make is worked out before they make it.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::prelude::SessionContext;

/// Bytes of text that one call may make, over all rows of a batch.
const MOST: u64 = 64 << 20;

/// The functions, and whether their number is a factor (or the length itself).
const BOUNDED: [(&str, bool); 3] = [("repeat", true), ("lpad", false), ("rpad", false)];

/// Puts the bound on the functions of a context.
///
/// # Errors
/// When it lacks one of them: DataFusion has given it another name, and this must follow.
pub fn bound(context: &SessionContext) -> Result<()> {
    for (name, is_factor) in BOUNDED {
        let inner = context.udf(name)?;
        context.register_udf(ScalarUDF::new_from_impl(Bounded { inner, is_factor }));
    }
    Ok(())
}

/// Another function, asked only when its answer is not too long.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    is_factor: bool,
}

impl Bounded {
    fn length(&self, args: &ScalarFunctionArgs) -> Result<u64> {
        let [text, number, ..] = args.args.as_slice() else { return Ok(0) };
        // A constant counts once: that is how often the functions work it out.
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let numbers = cast(&number.to_array(rows)?, &DataType::Int64)?;
        let numbers = numbers.as_primitive::<Int64Type>();
        let text = cast(&text.to_array(rows)?, &DataType::LargeUtf8)?;
        let text = text.as_string::<i64>();
        let of_row = |row: usize| {
            if numbers.is_null(row) || text.is_null(row) {
                return 0;
            }
            let number = u64::try_from(numbers.value(row)).unwrap_or(0);
            let unit = if self.is_factor { text.value_length(row).unsigned_abs() } else { 4 };
            number.saturating_mul(unit)
        };
        Ok((0..rows).map(of_row).fold(0, u64::saturating_add))
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let length = self.length(&args)?;
        if length > MOST {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{}() would make {length} bytes of text and may make {MOST}",
                self.name()
            )));
        }
        self.inner.invoke_with_args(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_texts_are_refused_and_short_ones_are_made() {
        let context = SessionContext::new();
        bound(&context).unwrap();
        for sql in [
            "select repeat('ab', 1000000000)",
            "select lpad('x', 1000000000)",
            "select rpad('x', 900000000, 'y')",
            "select repeat(v, n) from (values ('a', 2), ('b', 1000000000)) t(v, n)",
        ] {
            let error = context.sql(sql).await.unwrap().collect().await.unwrap_err();
            assert!(error.to_string().contains("would make"), "{sql}: {error}");
        }
        for sql in
            ["select repeat('ab', 3)", "select lpad('x', 5, '0')", "select repeat('a', -1)", "select rpad(null, 3)"]
        {
            context.sql(sql).await.unwrap().collect().await.unwrap();
        }
    }
}
