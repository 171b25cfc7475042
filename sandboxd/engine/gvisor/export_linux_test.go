package gvisor

// WhyNoNamespace returns the error for a user namespace that could not be created.
var WhyNoNamespace = whyNoNamespace
