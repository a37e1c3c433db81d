//! What a router and a provider do, as functions of input and time.
