//! The environment variables in which a launcher describes the processes of a run.
//!
//! Responsible for: reading the variables of torchrun, Open MPI, MPICH and Slurm.
//! Must not depend on: sockets, devices.

use thiserror::Error;

/// This process and its group, as the launcher describes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributedEnv {
    /// Counted from 0; the first process logs the run.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Index of this process's GPU among the visible ones: LOCAL_RANK, or 0 if each process sees only one GPU.
    pub gpu: usize,
    /// Address on which the first process listens.
    pub address: String,
    pub port: u16,
}

/// Why the variables can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DistributedEnvError {
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

/// Names of the same variable; the first is torchrun's. The others are read only if MASTER_ADDR is set, because Slurm
/// and MPI set them for single processes too.
const RANK: [&str; 4] = ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"];
const SIZE: [&str; 4] = ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
const LOCAL_RANK: [&str; 4] = ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];
const ADDRESS: &str = "MASTER_ADDR";
const PORT: &str = "MASTER_PORT";
/// The GPUs that are visible to this process.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// Set by torchrun if torchrun itself listens on MASTER_PORT.
const TAKEN: &str = "TORCHELASTIC_USE_AGENT_STORE";

impl DistributedEnv {
    /// Reads the environment of this process; `None` if it trains alone.
    ///
    /// # Errors
    /// If the variables are incomplete or contradict each other.
    pub fn from_env() -> Result<Option<Self>, DistributedEnvError> {
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, DistributedEnvError> {
        let meant = variable(ADDRESS).is_some();
        let find = |names: &[&'static str; 4]| {
            let known = if meant { &names[..] } else { &names[..1] };
            known.iter().find_map(|&name| Some((name, variable(name)?)))
        };
        let number = |(name, value): (&'static str, String)| {
            let wrong = |_| DistributedEnvError::Value { variable: name, value: value.clone(), what: "a number" };
            value.parse::<usize>().map_err(wrong)
        };
        let Some(size) = find(&SIZE).map(number).transpose()?.filter(|size| *size > 1) else { return Ok(None) };
        let missing = |variable| DistributedEnvError::Missing { size, variable };
        let rank = number(find(&RANK).ok_or_else(|| missing(RANK[0]))?)?;
        if rank >= size {
            return Err(DistributedEnvError::Rank { rank, size });
        }
        let local_rank = find(&LOCAL_RANK).map(number).transpose()?.unwrap_or(0);
        let alone = variable(VISIBLE).is_some_and(|visible| !visible.contains(','));
        let gpu = if alone { 0 } else { local_rank };
        let address = variable(ADDRESS).ok_or_else(|| missing(ADDRESS))?;
        let port = variable(PORT).ok_or_else(|| missing(PORT))?;
        let shift = u16::from(variable(TAKEN).is_some_and(|value| value == "True"));
        let free = port.parse::<u16>().ok().filter(|port| *port > 0).and_then(|port| port.checked_add(shift));
        let port = free.ok_or(DistributedEnvError::Value { variable: PORT, value: port, what: "a port" })?;
        Ok(Some(Self { rank, size, gpu, address, port }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<DistributedEnv>, DistributedEnvError> {
        DistributedEnv::read(&|name| Some(variables.iter().find(|(key, _)| *key == name)?.1.to_owned()))
    }

    const MASTER: [(&str, &str); 2] = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "29500")];

    fn env(rank: usize, size: usize, gpu: usize, port: u16) -> DistributedEnv {
        DistributedEnv { rank, size, gpu, address: "10.0.0.1".to_owned(), port }
    }

    #[test]
    fn torchrun_open_mpi_and_slurm_are_read() {
        let torchrun = [&MASTER[..], &[("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")]].concat();
        assert_eq!(read(&torchrun), Ok(Some(env(3, 4, 1, 29500))));
        let elastic = [&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
        assert_eq!(read(&elastic), Ok(Some(env(3, 4, 1, 29501))));
        for (visible, gpu) in [("0,1", 1), ("GPU-5a", 0)] {
            let seen = [&torchrun[..], &[("CUDA_VISIBLE_DEVICES", visible)]].concat();
            assert_eq!(read(&seen), Ok(Some(env(3, 4, gpu, 29500))));
        }
        for names in 1..4 {
            let mpi = [(RANK[names], "3"), (SIZE[names], "4"), (LOCAL_RANK[names], "1")];
            assert_eq!(read(&[&MASTER[..], &mpi].concat()), Ok(Some(env(3, 4, 1, 29500))));
            assert_eq!(read(&mpi), Ok(None), "{names}: no address is set");
        }
    }

    #[test]
    fn one_process_trains_alone() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("WORLD_SIZE", "1"), ("RANK", "0")]), Ok(None));
        assert_eq!(read(&MASTER), Ok(None));
    }

    #[test]
    fn missing_and_wrong_variables_are_named() {
        let base = [("RANK", "0"), ("WORLD_SIZE", "2"), MASTER[0], MASTER[1]];
        for missing in ["RANK", "MASTER_ADDR", "MASTER_PORT"] {
            let rest: Vec<_> = base.into_iter().filter(|(name, _)| *name != missing).collect();
            assert_eq!(read(&rest), Err(DistributedEnvError::Missing { size: 2, variable: missing }));
        }
        for (name, value) in [("RANK", "x"), ("WORLD_SIZE", "-2"), ("MASTER_PORT", "0"), ("MASTER_PORT", "70000")] {
            let wrong = base.map(|(key, old)| (key, if key == name { value } else { old }));
            let error = read(&wrong).expect_err("a fault").to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        let outside = base.map(|(key, value)| (key, if key == "RANK" { "2" } else { value }));
        assert_eq!(read(&outside), Err(DistributedEnvError::Rank { rank: 2, size: 2 }));
    }
}
