"""What is asked of each kind of component; importing the modules here adds their checks to the list."""
