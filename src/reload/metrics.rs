//! What is counted of reloads. Names as Prometheus' own and Caddy's, where they have them.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::request::Snapshot;

/// Reading, compiling and swapping, in seconds.
const DURATIONS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// The metrics of the configuration.
#[derive(Debug)]
pub struct Metrics {
    successful: IntGauge,
    success_timestamp: Gauge,
    applied: IntCounter,
    restart_needed: IntCounter,
    rejected: IntCounter,
    pub(super) unchanged: IntCounter,
    pub(super) duration: Histogram,
    generation: IntGauge,
    info: IntGaugeVec,
    restart_pending: IntGauge,
    routes: IntGauge,
    pub(super) watch_errors: IntCounter,
    certificates_taken: IntCounter,
    certificates_refused: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// A name is taken already: our fault.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let reloads = IntCounterVec::new(
            Opts::new(
                "anteroom_config_reloads_total",
                "Times that the configuration was read again, by what came of it",
            ),
            &["result"],
        )?;
        registry.register(Box::new(reloads.clone()))?;
        let success_timestamp = Gauge::new(
            "anteroom_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was put in force",
        )?;
        registry.register(Box::new(success_timestamp.clone()))?;
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "anteroom_config_reload_duration_seconds",
                "Reloads that were applied, from reading to in force",
            )
            .buckets(DURATIONS.to_vec()),
        )?;
        registry.register(Box::new(duration.clone()))?;
        let info = IntGaugeVec::new(
            Opts::new("anteroom_config_info", "The configuration in force, by its SHA-256"),
            &["sha256"],
        )?;
        registry.register(Box::new(info.clone()))?;
        let watch_errors = IntCounter::new(
            "anteroom_config_watch_errors_total",
            "Failures of the watcher; the file is looked at each second all the same",
        )?;
        registry.register(Box::new(watch_errors.clone()))?;
        let certificates = IntCounterVec::new(
            Opts::new(
                "anteroom_tls_certificate_reloads_total",
                "Times that a certificate has changed, by what came of it",
            ),
            &["result"],
        )?;
        registry.register(Box::new(certificates.clone()))?;
        Ok(Self {
            successful: gauge(
                "anteroom_config_last_reload_successful",
                "Whether the file, as it was last read, is in force",
            )?,
            success_timestamp,
            applied: reloads.with_label_values(&["applied"]),
            restart_needed: reloads.with_label_values(&["restart_needed"]),
            rejected: reloads.with_label_values(&["rejected"]),
            unchanged: reloads.with_label_values(&["unchanged"]),
            duration,
            generation: gauge(
                "anteroom_config_generation",
                "Rises by one with each configuration put in force",
            )?,
            info,
            restart_pending: gauge(
                "anteroom_config_restart_pending",
                "Whether the file in force has settings that take effect with the next start",
            )?,
            routes: gauge("anteroom_config_routes", "Routes in force")?,
            watch_errors,
            certificates_taken: certificates.with_label_values(&["ok"]),
            certificates_refused: certificates.with_label_values(&["error"]),
        })
    }

    /// The configuration that the process starts with.
    pub fn started(&self, snapshot: &Snapshot, routes: usize) {
        self.in_force(snapshot, routes, false);
    }

    pub(super) fn applied(&self, snapshot: &Snapshot, routes: usize, restart_pending: bool) {
        if restart_pending { &self.restart_needed } else { &self.applied }.inc();
        self.in_force(snapshot, routes, restart_pending);
    }

    pub(super) fn rejected(&self) {
        self.rejected.inc();
        self.successful.set(0);
    }

    pub(super) fn certificate_reloaded(&self, taken: bool) {
        if taken { &self.certificates_taken } else { &self.certificates_refused }.inc();
    }

    fn in_force(&self, snapshot: &Snapshot, routes: usize, restart_pending: bool) {
        self.successful.set(1);
        if let Ok(since) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.success_timestamp.set(since.as_secs_f64());
        }
        self.generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        // Exactly one configuration is in force, so there is exactly one series.
        self.info.reset();
        self.info.with_label_values(&[&snapshot.hash]).set(1);
        self.restart_pending.set(restart_pending.into());
        self.routes.set(i64::try_from(routes).unwrap_or(i64::MAX));
    }
}
