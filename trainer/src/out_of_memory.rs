//! Out-of-memory errors, in each device's form.
//!
//! Responsible for: recognizing them, and converting them to an error that the training loop can handle.
//! Must not depend on: the failed computation.
//!
//! CubeCL stores a failed allocation with its buffer. Burn panics when a result computed from the buffer is read: in a
//! training step, the loss or the gradient norm. On the CPU, a failed allocation ends the process. Therefore the
//! estimate is compared with the free memory there.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::TrainError;

/// Texts of CubeCL 0.11 (`cubecl_runtime::server::{IoError, LaunchError}`). Burn passes on no error type.
const TEXTS: [&str; 3] = ["out of device memory", "out-of-memory error", "can't allocate buffer of size"];

/// Whether the text of an error or a panic reports that a device is out of memory.
#[must_use]
pub fn is_out_of_memory(text: &str) -> bool {
    TEXTS.iter().any(|known| text.contains(known))
}

/// Runs `work`. An out-of-memory panic becomes [`TrainError::DeviceMemory`]; other panics continue.
pub(crate) fn catch<T>(work: impl FnOnce() -> Result<T, TrainError>) -> Result<T, TrainError> {
    let unwound = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Err(TrainError::Device(text))) if is_out_of_memory(&text) => {
            return Err(TrainError::DeviceMemory(brief(&text)));
        }
        Ok(result) => return result,
        Err(unwound) => unwound,
    };
    match text(&*unwound).filter(|text| is_out_of_memory(text)) {
        Some(text) => Err(TrainError::DeviceMemory(brief(text))),
        None => resume_unwind(unwound),
    }
}

fn text(unwound: &(dyn Any + Send)) -> Option<&str> {
    unwound.downcast_ref::<String>().map(String::as_str).or_else(|| unwound.downcast_ref::<&str>().copied())
}

/// The line with the error, without the backtrace.
fn brief(text: &str) -> String {
    text.lines().find(|line| is_out_of_memory(line)).unwrap_or(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(message: &str) -> Result<(), TrainError> {
        let message = message.to_owned();
        catch(move || std::panic::panic_any(message))
    }

    #[test]
    fn panics_of_the_device_become_errors() {
        for text in TEXTS {
            let panic = format!("Error while reading data:\n  Caused by: {text} 1024 bytes\n  0: a frame");
            let Err(TrainError::DeviceMemory(told)) = caught(&panic) else { panic!("{text} was not recognised") };
            assert_eq!(told, format!("Caused by: {text} 1024 bytes"));
        }
        let error = catch::<()>(|| Err(TrainError::Device("out of device memory allocating 7 bytes".into())));
        assert!(matches!(error, Err(TrainError::DeviceMemory(_))));
    }

    #[test]
    fn other_panics_and_errors_are_unchanged() {
        assert!(catch_unwind(|| caught("index out of bounds")).is_err());
        assert!(matches!(catch::<()>(|| Err(TrainError::Device("lost".into()))), Err(TrainError::Device(_))));
        assert!(matches!(catch(|| Ok(3)), Ok(3)));
    }
}
