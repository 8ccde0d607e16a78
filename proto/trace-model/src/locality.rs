//! What may leave a region (DESIGN: locality). Decided per contribution and per answer, in the cell
//! that owns the data.

/// What the publisher lets out of the region about a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IndexMode {
    /// All metadata fields.
    #[default]
    Full,
    /// Trace id and region only.
    Routing,
    /// Nothing: the region's traces cannot be seen from outside.
    None,
}

/// What the querier gives to a caller of another region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SpanMode {
    /// Everything.
    #[default]
    Open,
    /// Nothing: the certificate says `forbidden`.
    Closed,
}

/// A cell's locality policy. Rules by tenant, service and attribute will narrow these two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// What leaves with the index.
    pub index: IndexMode,
    /// What leaves with answers.
    pub spans: SpanMode,
}
