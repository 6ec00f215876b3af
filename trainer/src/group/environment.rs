//! What a launcher says about the processes of a run.
//!
//! Responsible for: reading torchrun's variables, and what Open MPI, MPICH and Slurm call them.
//! Must not depend on: sockets, devices.

use thiserror::Error;

/// This process among those that train together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// From 0; the first process writes the run down.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Which of the GPUs that this process sees is its own: LOCAL_RANK, or 0 where the launcher shows each process one
    /// alone.
    pub gpu: usize,
    /// Where the first process listens.
    pub address: String,
    pub port: u16,
}

/// Why the variables make no sense.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LaunchError {
    #[error(
        "{variable} is `{value}`, which is not {what}\nhint: torchrun, or `RANK=0 WORLD_SIZE=2 MASTER_ADDR=host MASTER_PORT=29500`, starts processes that train together"
    )]
    Value { variable: &'static str, value: String, what: &'static str },

    #[error(
        "WORLD_SIZE is {size}, but {variable} is not set\nhint: processes that train together need RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without WORLD_SIZE this process trains alone"
    )]
    Missing { size: usize, variable: &'static str },

    #[error("RANK is {rank}, but WORLD_SIZE is {size}: ranks go from 0 to {}", size - 1)]
    Rank { rank: usize, size: usize },
}

/// Names of the same thing, torchrun's first. The others count only where MASTER_ADDR is set: it says that processes are
/// meant to find each other, which the mere presence of Slurm or MPI does not.
const RANK: [&str; 4] = ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"];
const SIZE: [&str; 4] = ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
const LOCAL_RANK: [&str; 4] = ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];
const ADDRESS: &str = "MASTER_ADDR";
const PORT: &str = "MASTER_PORT";
/// The GPUs that CUDA shows this process.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// Set by torchrun where it listens on MASTER_PORT itself.
const TAKEN: &str = "TORCHELASTIC_USE_AGENT_STORE";

impl Launch {
    /// What this process's environment says; `None` when it trains alone.
    ///
    /// # Errors
    /// When the variables are incomplete or contradict each other.
    pub fn from_env() -> Result<Option<Self>, LaunchError> {
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, LaunchError> {
        let meant = variable(ADDRESS).is_some();
        let find = |names: &[&'static str; 4]| {
            let known = if meant { &names[..] } else { &names[..1] };
            known.iter().find_map(|&name| Some((name, variable(name)?)))
        };
        let number = |(name, value): (&'static str, String)| {
            let wrong = |_| LaunchError::Value { variable: name, value: value.clone(), what: "a number" };
            value.parse::<usize>().map_err(wrong)
        };
        let Some(size) = find(&SIZE).map(number).transpose()?.filter(|size| *size > 1) else { return Ok(None) };
        let missing = |variable| LaunchError::Missing { size, variable };
        let rank = number(find(&RANK).ok_or_else(|| missing(RANK[0]))?)?;
        if rank >= size {
            return Err(LaunchError::Rank { rank, size });
        }
        let local_rank = find(&LOCAL_RANK).map(number).transpose()?.unwrap_or(0);
        let alone = variable(VISIBLE).is_some_and(|visible| !visible.contains(','));
        let gpu = if alone { 0 } else { local_rank };
        let address = variable(ADDRESS).ok_or_else(|| missing(ADDRESS))?;
        let port = variable(PORT).ok_or_else(|| missing(PORT))?;
        let shift = u16::from(variable(TAKEN).is_some_and(|value| value == "True"));
        let free = port.parse::<u16>().ok().filter(|port| *port > 0).and_then(|port| port.checked_add(shift));
        let port = free.ok_or(LaunchError::Value { variable: PORT, value: port, what: "a port" })?;
        Ok(Some(Self { rank, size, gpu, address, port }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Launch>, LaunchError> {
        Launch::read(&|name| Some(variables.iter().find(|(key, _)| *key == name)?.1.to_owned()))
    }

    const MASTER: [(&str, &str); 2] = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500")];

    fn launch(rank: usize, size: usize, gpu: usize, port: u16) -> Launch {
        Launch { rank, size, gpu, address: "10.0.0.1".to_owned(), port }
    }

    #[test]
    fn torchrun_open_mpi_and_slurm_say_the_same() {
        let torchrun = [&MASTER[..], &[("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")]].concat();
        assert_eq!(read(&torchrun), Ok(Some(launch(3, 4, 1, 29500))));
        let elastic = [&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
        assert_eq!(read(&elastic), Ok(Some(launch(3, 4, 1, 29501))));
        for (visible, gpu) in [("0,1", 1), ("GPU-5a", 0)] {
            let seen = [&torchrun[..], &[("CUDA_VISIBLE_DEVICES", visible)]].concat();
            assert_eq!(read(&seen), Ok(Some(launch(3, 4, gpu, 29500))));
        }
        for names in 1..4 {
            let mpi = [(RANK[names], "3"), (SIZE[names], "4"), (LOCAL_RANK[names], "1")];
            assert_eq!(read(&[&MASTER[..], &mpi].concat()), Ok(Some(launch(3, 4, 1, 29500))));
            assert_eq!(read(&mpi), Ok(None), "{names}: nobody said where to meet");
        }
    }

    #[test]
    fn one_process_trains_alone() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("WORLD_SIZE", "1"), ("RANK", "0")]), Ok(None));
        assert_eq!(read(&MASTER), Ok(None));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let base = [("RANK", "0"), ("WORLD_SIZE", "2"), MASTER[0], MASTER[1]];
        for missing in ["RANK", "MASTER_ADDR", "MASTER_PORT"] {
            let rest: Vec<_> = base.into_iter().filter(|(name, _)| *name != missing).collect();
            assert_eq!(read(&rest), Err(LaunchError::Missing { size: 2, variable: missing }));
        }
        for (name, value) in [("RANK", "x"), ("WORLD_SIZE", "-2"), ("MASTER_PORT", "0"), ("MASTER_PORT", "70000")] {
            let wrong = base.map(|(key, old)| (key, if key == name { value } else { old }));
            let error = read(&wrong).expect_err("a fault").to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        let outside = base.map(|(key, value)| (key, if key == "RANK" { "2" } else { value }));
        assert_eq!(read(&outside), Err(LaunchError::Rank { rank: 2, size: 2 }));
    }
}
