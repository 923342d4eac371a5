// Package sysctl sets kernel parameters and puts them back.
//
// In: names and values. Out: the same under /proc/sys, read again after
// writing. What a parameter was before the first change is kept in a file, so
// that it can be restored by another process, after any number of restarts.
// A parameter of a network namespace is that of the calling thread's.
package sysctl
