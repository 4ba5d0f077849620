"""What is exported: a checkpoint or bundle, its robot section, and the classes of the user."""
