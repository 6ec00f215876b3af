//! Running out of memory, in whichever form a device says it.
//!
//! Responsible for: recognising it, and turning it into an error that the training loop can act upon.
//! Must not depend on: what was computed.
//!
//! CubeCL keeps a failed allocation with the buffer that it was for; the error comes to light where something computed
//! from the buffer is read, in a training step the loss or the norm of the gradients, as a panic of Burn's. On the CPU an
//! allocation that fails ends the process, so nothing comes here: there the estimate is compared with what is free.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::TrainError;

/// What CubeCL 0.11 writes (`cubecl_runtime::server::{IoError, LaunchError}`); no kind of error reaches Burn.
const TEXTS: [&str; 3] = ["out of device memory", "out-of-memory error", "can't allocate buffer of size"];

/// Whether the text of an error or a panic says that a device had no memory left.
#[must_use]
pub fn is_out_of_memory(text: &str) -> bool {
    TEXTS.iter().any(|known| text.contains(known))
}

/// Does `work`. A panic that says that memory ran out becomes [`TrainError::DeviceMemory`]; others go on.
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

/// The line that says it, without the backtrace around it.
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
    fn other_panics_and_errors_stay_what_they_are() {
        assert!(catch_unwind(|| caught("index out of bounds")).is_err());
        assert!(matches!(catch::<()>(|| Err(TrainError::Device("lost".into()))), Err(TrainError::Device(_))));
        assert!(matches!(catch(|| Ok(3)), Ok(3)));
    }
}
