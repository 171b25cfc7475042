package gvisor

// WhyNoNamespace is the error of a user namespace that could not be made.
var WhyNoNamespace = whyNoNamespace
