//! What series are made of: one for each value of a label, found by its index.

use std::marker::PhantomData;

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

use super::{Label, MetricsError};

/// What a family of series is made of.
pub trait Metric: Collector + Clone + Sized + 'static {
    /// Makes one series.
    ///
    /// # Errors
    /// The name or a label is not one Prometheus takes.
    fn make(opts: Opts, buckets: &[f64]) -> Result<Self, MetricsError>;
}

impl Metric for IntCounter {
    fn make(opts: Opts, _: &[f64]) -> Result<Self, MetricsError> {
        Self::with_opts(opts)
    }
}

impl Metric for IntGauge {
    fn make(opts: Opts, _: &[f64]) -> Result<Self, MetricsError> {
        Self::with_opts(opts)
    }
}

impl Metric for Gauge {
    fn make(opts: Opts, _: &[f64]) -> Result<Self, MetricsError> {
        Self::with_opts(opts)
    }
}

impl Metric for Histogram {
    fn make(opts: Opts, buckets: &[f64]) -> Result<Self, MetricsError> {
        Self::with_opts(HistogramOpts { common_opts: opts, buckets: buckets.to_vec() })
    }
}

/// One series for each value of a label.
pub struct Family<L, M> {
    pub(super) series: Box<[M]>,
    pub(super) label: PhantomData<fn(L)>,
}

impl<L: Label, M> Family<L, M> {
    /// The series of one value.
    pub fn of(&self, label: L) -> &M {
        &self.series[label.index()]
    }
}

impl<L: Label> Family<L, IntGauge> {
    /// Shows which of all values holds: its series is 1, the others are 0.
    pub fn show(&self, label: L) {
        for (index, series) in self.series.iter().enumerate() {
            series.set(i64::from(index == label.index()));
        }
    }
}

/// One series for each pair of values of two labels.
pub struct Grid<A, B, M> {
    series: Box<[M]>,
    labels: PhantomData<fn(A, B)>,
}

impl<A: Label, B: Label, M> Grid<A, B, M> {
    /// The series of one pair.
    pub fn of(&self, a: A, b: B) -> &M {
        &self.series[a.index() * B::ALL.len() + b.index()]
    }
}

/// Makes and registers series.
pub(super) struct Maker {
    pub(super) registry: Registry,
}

impl Maker {
    pub(super) fn one<M: Metric>(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        buckets: &[f64],
    ) -> Result<M, MetricsError> {
        let opts = labels
            .iter()
            .fold(Opts::new(format!("tidegate_{name}"), help), |opts, (label, value)| opts.const_label(*label, *value));
        let metric = M::make(opts, buckets)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn plain<M: Metric>(&self, name: &str, help: &str) -> Result<M, MetricsError> {
        self.one(name, help, &[], &[])
    }

    pub(super) fn family<L: Label, M: Metric>(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<Family<L, M>, MetricsError> {
        let series = L::ALL.iter().map(|value| self.one(name, help, &[(label, value.as_str())], &[]));
        Ok(Family { series: series.collect::<Result<_, _>>()?, label: PhantomData })
    }

    pub(super) fn timed<L: Label>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        buckets: &[f64],
    ) -> Result<Family<L, Histogram>, MetricsError> {
        let series = L::ALL.iter().map(|value| self.one(name, help, &[(label, value.as_str())], buckets));
        Ok(Family { series: series.collect::<Result<_, _>>()?, label: PhantomData })
    }

    pub(super) fn grid<A: Label, B: Label, M: Metric>(
        &self,
        name: &str,
        help: &str,
        (label_a, label_b): (&str, &str),
        buckets: &[f64],
    ) -> Result<Grid<A, B, M>, MetricsError> {
        let pairs = A::ALL.iter().flat_map(|a| B::ALL.iter().map(move |b| (a, b)));
        let series = pairs.map(|(a, b)| self.one(name, help, &[(label_a, a.as_str()), (label_b, b.as_str())], buckets));
        Ok(Grid { series: series.collect::<Result<_, _>>()?, labels: PhantomData })
    }
}
