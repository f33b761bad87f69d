//! The harness: starts the real daemon against real servers.
