//! `--device`: where a model computes.

use crate::{Error, Result};
use candle_core::{Device, utils};
use std::{fmt, str::FromStr};

/// A device by its name on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where the program was built for one and there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// By its number.
    Cuda(usize),
    Metal,
}

impl DeviceChoice {
    /// Opens it; one that the program was not built for, or that is not there, is an error.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Auto if utils::cuda_is_available() => Self::Cuda(0).open(),
            Self::Auto if utils::metal_is_available() => Self::Metal.open(),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !utils::cuda_is_available() => Err(self.not_built_for("cuda")),
            Self::Metal if !utils::metal_is_available() => Err(self.not_built_for("metal")),
            Self::Cuda(ordinal) => Device::new_cuda(ordinal).map_err(|e| self.wrong(&e)),
            Self::Metal => Device::new_metal(0).map_err(|e| self.wrong(&e)),
        }
    }

    fn not_built_for(self, feature: &str) -> Error {
        let hint = format!("hint: build with `--features {feature}`");
        Error::Usage(format!("--device {self}: this program was not built for it ({hint})"))
    }

    fn wrong(self, error: &candle_core::Error) -> Error {
        let error = error.to_string();
        Error::Usage(format!("--device {self}: {}", error.lines().next().unwrap_or_default()))
    }
}

/// Bytes that are free on a device, where it tells.
pub fn free_memory(device: &Device) -> Option<usize> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free);
    }
    #[cfg(not(feature = "cuda"))]
    let _ = device;
    None
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "metal" => Ok(Self::Metal),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number.map(Self::Cuda).ok_or_else(|| "expected auto, cpu, cuda:N or metal".into())
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:x", ""] {
            assert!(wrong.parse::<DeviceChoice>().unwrap_err().contains("cuda:N"), "{wrong}");
        }
    }

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn what_was_not_built_for_is_refused() {
        assert!(DeviceChoice::Auto.open().unwrap().is_cpu());
        let message = DeviceChoice::Cuda(1).open().unwrap_err().to_string();
        assert!(message.contains("--device cuda:1: ") && message.contains("--features cuda"), "{message}");
        assert!(DeviceChoice::Metal.open().unwrap_err().to_string().contains("--features metal"));
    }
}
