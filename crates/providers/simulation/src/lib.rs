//! The simulated cloud: what it plays is data; faults and delays by seed; a process of its own or inside.
